"""The OpenVINO engine computes what the torch engine computes: every architecture, point, length and precision."""

import asyncio
import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from w2v_compress.model_file.random import random_model
from w2v_compress.model_file.storage import ModelFile, write_model
from w2v_compress.nn.architecture import Architecture
from w2v_compress.nn.compression import UNCOMPRESSED, CompressionPoint
from w2v_compress.runtime.engines.openvino import engine as module
from w2v_compress.runtime.engines.openvino.engine import LONG_PIECE, OpenVinoEngine, pieces
from w2v_compress.runtime.engines.openvino.graph import padded_length
from w2v_compress.runtime.engines.openvino.group_norm import fold_group_norm
from w2v_compress.runtime.engines.torch_engine import TorchEngine
from w2v_compress.runtime.recognizer import Recognizer

SMALL = Architecture(
    conv_layers=((32, 10, 5), (32, 3, 2), (32, 3, 2), (32, 3, 2), (32, 3, 2), (32, 2, 2), (32, 2, 2)),
    encoder_layers=3,
    encoder_embed_dim=48,
    encoder_ffn_embed_dim=96,
    encoder_attention_heads=4,
    conv_pos=16,
    conv_pos_groups=4,
)
ARCHITECTURES = {
    "base": SMALL,
    "large": dataclasses.replace(SMALL, extractor_mode="layer_norm", conv_bias=True, layer_norm_first=True),
    "upsampling with gelu": dataclasses.replace(SMALL, learned_upsampling=(2,), activation_fn="relu", conv_bias=True),
    "linear upsampling, equal widths, odd kernel": dataclasses.replace(
        SMALL, encoder_embed_dim=32, conv_pos=15, learned_upsampling=(2, 3), upsampling_activation="none"
    ),
    "centred positions": dataclasses.replace(SMALL, centered_positions=True),
}
POINTS = ("1,1,1", "2,1,1", "1,2,3", "2,1:2:3,2:1:4", "3,1,2", "4,3,1")
LENGTHS = (400, 719, 16_000, 33_333, 70_001)


def audio(lengths: Sequence[int] = LENGTHS) -> list[np.ndarray]:
    """Noise with a constant offset."""
    generator = np.random.default_rng(0)
    return [generator.normal(0.3, 0.1, length).astype(np.float32) for length in lengths]


@pytest.fixture
def model_path(tmp_path: Path) -> Callable[..., Path]:
    """model_path(architecture, dtype) writes a model in which no parameter has its initial value."""

    def write(architecture: Architecture = SMALL, dtype: torch.dtype = torch.float32) -> Path:
        model = random_model(architecture)
        generator = torch.Generator().manual_seed(1)
        state = {
            name: (tensor + 0.05 * torch.randn(tensor.shape, generator=generator)).to(dtype)
            for name, tensor in model.state.items()
        }
        path = tmp_path / "model.safetensors"
        write_model(path, ModelFile(model.header, state))
        return path

    return write


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_equals_the_torch_engine_at_every_point_and_length(name: str, model_path: Callable[..., Path]) -> None:
    architecture = ARCHITECTURES[name]
    path = model_path(architecture)
    exact, engine = TorchEngine.load(path, "fp32"), OpenVinoEngine(path, "fp32", cache=False, max_points=1)
    points = [CompressionPoint.parse(text) for text in POINTS]
    supported = [point for point in points if point.squeeze in (1, *(architecture.learned_upsampling or range(5)))]
    assert len(supported) >= 4
    for point in supported:
        for waveform, log_probs in zip(audio(), engine.log_probs(audio(), point), strict=True):
            (expected,) = exact.log_probs([waveform], point)
            np.testing.assert_allclose(log_probs, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_runs_weights_of_half_precision(dtype: torch.dtype, model_path: Callable[..., Path]) -> None:
    path = model_path(dtype=dtype)
    (expected,) = TorchEngine.load(path, "fp32").log_probs(audio([20_000]), UNCOMPRESSED)
    for _ in range(2):  # the second time from the cache
        (log_probs,) = OpenVinoEngine(path, "fp32").log_probs(audio([20_000]), UNCOMPRESSED)
        np.testing.assert_allclose(log_probs, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("streams", [1, 2])
def test_a_batch_equals_single_utterances_bit_for_bit(streams: int, model_path: Callable[..., Path]) -> None:
    engine = OpenVinoEngine(model_path(), "fp32", threads=2, streams=streams)
    alone = [engine.log_probs([waveform], UNCOMPRESSED)[0] for waveform in audio()]
    for log_probs, expected in zip(engine.log_probs(audio(), UNCOMPRESSED), alone, strict=True):
        np.testing.assert_array_equal(log_probs, expected)


def test_threads_and_asyncio_share_a_recognizer(model_path: Callable[..., Path]) -> None:
    recognizer = Recognizer.load(model_path(), precision="fp32", threads=2, streams=2)
    waveforms = audio([8_000 + 640 * number for number in range(24)])
    expected = [recognizer.emissions(waveform, 16_000) for waveform in waveforms]

    def run(waveform: np.ndarray) -> np.ndarray:
        return recognizer.emissions(waveform, 16_000)

    async def gather() -> list[np.ndarray]:
        return await asyncio.gather(*(asyncio.to_thread(run, waveform) for waveform in waveforms))

    with ThreadPoolExecutor(4) as pool:
        for results in (pool.map(run, waveforms), asyncio.run(gather())):
            for result, right in zip(results, expected, strict=True):
                np.testing.assert_array_equal(result, right)


def test_recognizers_in_threads_are_independent(model_path: Callable[..., Path]) -> None:
    path = model_path()
    points = [CompressionPoint(1), CompressionPoint(2)]
    recognizers = [Recognizer.load(path, precision="fp32", threads=1) for _ in points]

    def run(number: int) -> list[np.ndarray]:
        return [recognizers[number].engine.log_probs(audio(), points[number])[0] for _ in range(5)]

    expected = [TorchEngine.load(path, "fp32").log_probs(audio()[:1], point)[0] for point in points]
    with ThreadPoolExecutor(2) as pool:
        for results, right in zip(pool.map(run, range(2)), expected, strict=True):
            for result in results:
                np.testing.assert_allclose(result, right, rtol=0, atol=2e-5)


def test_few_points_stay_in_memory(model_path: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    build = module.GraphBuilder.encoder

    def count(self: Any, point: CompressionPoint) -> Any:
        compiled.append(str(point))
        return build(self, point)

    monkeypatch.setattr(module.GraphBuilder, "encoder", count)
    engine = OpenVinoEngine(model_path(), "fp32", cache=False, max_points=2)
    for text in ("1,1,1", "2,1,1", "1,1,1", "3,1,1", "1,1,1", "2,1,1"):
        engine.log_probs(audio()[:1], CompressionPoint.parse(text))
    assert compiled == ["1,1,1", "2,1,1", "3,1,1", "2,1,1"]
    engine.keep_points(3)
    for text in ("1,1,1", "2,1,1", "3,1,1", "1,1,1", "2,1,1", "3,1,1"):
        engine.log_probs(audio()[:1], CompressionPoint.parse(text))
    assert compiled[4:] == ["3,1,1"]


def test_pieces_cover_every_frame_with_little_padding() -> None:
    for frames in range(1, 400):
        plan = list(pieces(frames))
        assert [first for first, _ in plan] == np.cumsum([0, *(length for _, length in plan[:-1])]).tolist()
        assert 0 <= sum(length for _, length in plan) - frames < 16
        assert all(length == LONG_PIECE for _, length in plan[:-4])


def test_padded_lengths_are_few_and_close() -> None:
    lengths = {padded_length(length, 3) for length in range(1, 3_000)}
    assert len(lengths) < 130
    for length in range(1, 3_000):
        padded = padded_length(length, 3)
        assert padded % 3 == 0
        assert 0 <= padded - length <= max(2, length / 16 + 2)


def test_the_group_norm_is_that_of_torch() -> None:
    generator = np.random.default_rng(0)
    kernels, weight, bias = (generator.normal(size=shape).astype(np.float32) for shape in ((8, 10), 8, 8))
    (waveform,) = audio([4_000])
    factor, offset = fold_group_norm(waveform, kernels, 5, weight, bias)
    convolved = torch.nn.functional.conv1d(
        torch.from_numpy(waveform)[None, None], torch.from_numpy(kernels)[:, None], stride=5
    )
    expected = torch.nn.functional.group_norm(convolved, 8, torch.from_numpy(weight), torch.from_numpy(bias))
    np.testing.assert_allclose(convolved[0].numpy() * factor[:, None] + offset[:, None], expected[0], rtol=0, atol=2e-5)
