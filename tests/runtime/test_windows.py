"""Windows of long audio fit the chunk length, are read from a stream, and join without seams."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from w2v_compress.errors import AudioError
from w2v_compress.model_file.storage import ModelFile
from w2v_compress.nn.compression import CompressionPoint, CompressionSpace
from w2v_compress.runtime.engines.torch_engine import TorchEngine
from w2v_compress.runtime.recognizer import Recognizer
from w2v_compress.runtime.windows import CHUNK_SECONDS, plan_windows, pooling_period, read_windows

POINTS = ("1,1,1", "3,1,1", "1,2,3", "4,2,1", "2,1:3,2:5", "16,16,16", "16,9:16,11")


@pytest.mark.parametrize("point", [CompressionPoint.parse(text) for text in POINTS])
def test_windows_cover_every_frame_once_fit_the_chunk_and_start_with_the_groups(
    tiny_model: Callable[..., ModelFile], point: CompressionPoint
) -> None:
    architecture = tiny_model().header.architecture
    period = pooling_period(point, 2)
    if period > 1300:  # of 1500 frames, less the context
        period = point.squeeze
    for samples in (480_000, 480_001, 480_320, 500_000, 1_234_567, 10_000_000):
        windows = plan_windows(architecture, samples, point=point)
        assert (len(windows) == 1) == (samples <= CHUNK_SECONDS * 16_000)
        next_frame = 0
        for window in windows:
            length = window.samples.stop - window.samples.start
            assert window.samples.stop <= samples
            assert length <= CHUNK_SECONDS * 16_000
            assert window.kept.stop <= architecture.frames(length)
            assert window.samples.start % (320 * period) == 0
            assert window.samples.start // 320 + window.kept.start == next_frame
            assert window.kept.start >= 100 or window.samples.start == 0
            assert architecture.frames(length) - window.kept.stop >= 100 or window is windows[-1]
            next_frame += window.kept.stop - window.kept.start
        assert next_frame == architecture.frames(samples)


def test_pooling_periods() -> None:
    periods = {point: pooling_period(CompressionPoint.parse(point), 2) for point in POINTS}
    assert periods == dict(zip(POINTS, (1, 3, 6, 8, 60, 256, 16 * 9 * 16 * 11), strict=True))


def test_windows_are_read_from_blocks_of_any_size(tiny_model: Callable[..., ModelFile]) -> None:
    audio = np.random.default_rng(0).normal(size=200_000).astype(np.float32)
    windows = plan_windows(tiny_model().header.architecture, len(audio), 5.0)
    assert len(windows) > 4
    for size in (100, 7_777, 70_000, 300_000):
        blocks = [audio[start : start + size] for start in range(0, len(audio), size)]
        read = list(read_windows(blocks, windows, "a"))
        for window, samples in zip(windows, read, strict=True):
            np.testing.assert_array_equal(samples, audio[window.samples])
    with pytest.raises(AudioError, match="a: became shorter while it was read"):
        list(read_windows([audio[:-2_000]], windows, "a"))


def without_attention(model: ModelFile) -> None:
    """Zero the attention, so that the receptive field is that of the convolutions and seams must be invisible."""
    for name, tensor in model.state.items():
        if "self_attn.out_proj" in name:
            tensor.zero_()


@pytest.mark.parametrize("squeeze", [1, 2, 3])
def test_windows_equal_a_single_pass_without_attention(
    tiny_model: Callable[..., ModelFile], wav: Callable[..., Path], squeeze: int
) -> None:
    model = tiny_model()
    without_attention(model)
    point = CompressionPoint(squeeze)
    header = dataclasses.replace(model.header, space=CompressionSpace(points=(point,)), point=point)
    path = wav("long.wav", 13.21)
    single_pass = Recognizer(TorchEngine(model.build()), header).emissions(path)
    recognizer = Recognizer(TorchEngine(model.build()), header, chunk_seconds=8.0)
    assert len(recognizer.windows(round(13.21 * 16_000), point)) > 2
    np.testing.assert_allclose(recognizer.emissions(path), single_pass, rtol=0, atol=1e-4)


@pytest.mark.parametrize("text", ["1,1,1", "1,2,2", "1,2,3", "2,3,2", "3,4,1"])
def test_windows_pool_the_same_frames_as_a_single_pass(
    tiny_model: Callable[..., ModelFile], wav: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """With attention to the key of the same time only, seams must be invisible at every compression point."""
    point = CompressionPoint.parse(text)

    def attend(query: Tensor, key: Tensor, value: Tensor, **options: object) -> Tensor:
        return value[:, :, torch.arange(query.shape[2]) * point.query_pool // point.key_value_pool]

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attend)
    model = tiny_model()
    header = dataclasses.replace(model.header, space=CompressionSpace(points=(point,)), point=point)
    path = wav("long.wav", 13.21)
    single_pass = Recognizer(TorchEngine(model.build()), header).emissions(path)
    windowed = Recognizer(TorchEngine(model.build()), header, chunk_seconds=8.0).emissions(path)
    np.testing.assert_allclose(windowed, single_pass, rtol=0, atol=1e-4)
    without_attention(model)
    assert not np.allclose(
        Recognizer(TorchEngine(model.build()), header).emissions(path), single_pass, rtol=0, atol=1e-2
    )


def test_audio_just_over_the_limit_differs_little_from_a_single_pass(
    tiny_model: Callable[..., ModelFile], wav: Callable[..., Path]
) -> None:
    model = tiny_model()
    recognizer = Recognizer(TorchEngine(model.build()), model.header)
    path = wav("long.wav", CHUNK_SECONDS + 0.5)
    windowed = recognizer.emissions(path)
    recognizer.chunk_seconds = 60.0
    single_pass = recognizer.emissions(path)
    assert windowed.shape == single_pass.shape
    assert not np.array_equal(windowed, single_pass)
    assert (windowed.argmax(-1) == single_pass.argmax(-1)).mean() > 0.95
