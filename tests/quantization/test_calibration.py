"""Calibration: ranges, scales, and int8 networks with fixed scales in both engines."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from w2v_compress.data.audio import read_audio
from w2v_compress.data.manifest import Utterance, write_manifest
from w2v_compress.data.units import Units
from w2v_compress.errors import InputError
from w2v_compress.evaluation.calibrate import calibrate
from w2v_compress.model_file.storage import ModelFile, quantize_file, read_model, write_model
from w2v_compress.model_file.tensor_file import TensorFile, describe_model
from w2v_compress.nn.compression import CompressionPoint, CompressionSpace
from w2v_compress.processor import Processor
from w2v_compress.quantization.calibration import Calibration, Range
from w2v_compress.quantization.scheme import short_weights
from w2v_compress.runtime.engines.openvino import engine
from w2v_compress.runtime.recognizer import Recognizer

SPACE = CompressionSpace(points=(CompressionPoint(), CompressionPoint(2, 2, 1)))


@pytest.fixture
def elastic(tiny_model: Callable[..., ModelFile], tmp_path: Path) -> Path:
    model = tiny_model()
    path = tmp_path / "elastic.safetensors"
    write_model(path, dataclasses.replace(model, header=dataclasses.replace(model.header, space=SPACE)))
    return path


@pytest.fixture
def utterances(wav: Callable[..., Path]) -> list[Path]:
    lengths = (1.0, 0.4, 2.3)
    return [wav(f"{number}.wav", seconds, seed=number) for number, seconds in enumerate(lengths)]


def test_scales_map_the_range_to_all_steps_and_zero_to_a_step() -> None:
    low, high = torch.tensor([-1.0, 0.0, -0.1]), torch.tensor([3.0, 0.5, 40.0])
    calibration = Calibration(inputs={"fc1": Range(low, high)})
    weight = torch.tensor([[1.0, 2.0, 0.01], [-3.0, 0.5, 0.02]])
    scales = calibration.input_scales("fc1", lambda _name: weight)
    assert scales is not None
    assert scales.zero == scales.zero.round()
    quantized = torch.stack([low, high]) / scales.scale + scales.zero
    assert quantized.min() >= -128.5
    assert quantized.max() <= 127.5
    assert (quantized.max() - quantized.min()) > 250
    # The outlying channel has a larger scale, but not by as much as its range is larger.
    assert 1 < scales.scale[2] / scales.scale[0] < 40


def test_the_projections_of_attention_share_their_scales() -> None:
    ranges = {f"self_attn.{name}": Range(-torch.rand(4), torch.rand(4)) for name in ("q_proj", "k_proj", "v_proj")}
    calibration = Calibration(inputs=ranges)
    weights = {name: torch.randn(4, 4) for name in ranges}
    first, *others = (calibration.input_scales(name, weights.__getitem__) for name in ranges)
    assert first is not None
    for other in others:
        assert other is not None
        assert torch.equal(other.scale, first.scale)
        assert torch.equal(other.zero, first.zero)


@pytest.mark.parametrize("scheme", ["full", "paper"])
def test_both_engines_stay_close_to_fp32_and_to_each_other(
    scheme: str, elastic: Path, utterances: list[Path], tmp_path: Path
) -> None:
    with pytest.warns(UserWarning, match="only 3 utterances to calibrate on; 100 are better"):
        calibration = calibrate(elastic, utterances, scheme)
    path = tmp_path / "int8.safetensors"
    quantize_file(elastic, path, scheme, (), calibration)
    assert describe_model(path)["quantization"]["calibration"] == {
        "smoothing": 0.65,
        "utterances": 3,
        "seconds": 3.7,
        "points": ["1,1,1", "2,2,1"],
    }
    exact, dynamic = (Recognizer.load(elastic, precision="fp32"), Recognizer.load(path))
    assert dynamic.engine.name == "openvino"
    reference = Recognizer.load(path, engine="torch")
    for point in ("1,1,1", "2,2,1"):
        for utterance in utterances:
            right, openvino, torch_ = (
                centred(each.emissions(utterance, point=point)) for each in (exact, dynamic, reference)
            )
            for result in (openvino, torch_):
                assert 1e-4 < np.linalg.norm(result - right) / np.linalg.norm(right) < 0.06
            assert np.linalg.norm(openvino - torch_) / np.linalg.norm(right) < 0.06
            assert (openvino.argmax(1) == right.argmax(1)).mean() > 0.8


def test_openvino_rounds_weights_to_7_bits_where_products_of_8_overflow(
    elastic: Path, utterances: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    int8, short = tmp_path / "int8.safetensors", tmp_path / "short.safetensors"
    with pytest.warns(UserWarning, match="only 3"):
        quantize_file(elastic, int8, "full", (), calibrate(elastic, utterances))
    model = read_model(int8)
    write_model(short, ModelFile(model.header, short_weights(model.state)))
    results = {}
    for overflows, path in ((True, int8), (False, short), (False, int8)):
        flags = frozenset({"sse2"} if overflows else {"sse2", "avx_vnni"})
        monkeypatch.setattr(engine, "processor", lambda flags=flags: Processor("", "", 0, flags))
        results[overflows, path] = Recognizer.load(path, cache=False).emissions(utterances[0])
    assert np.allclose(results[True, int8], results[False, short], atol=1e-4)
    assert not np.allclose(results[True, int8], results[False, int8], atol=1e-2)


def test_weights_that_are_not_multiplied_in_int8_keep_8_bits(
    elastic: Path, utterances: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    int8 = tmp_path / "int8.safetensors"
    quantize_file(elastic, int8)
    results = []
    for flags in ({"sse2"}, {"sse2", "avx_vnni"}):
        monkeypatch.setattr(engine, "processor", lambda flags=flags: Processor("", "", 0, frozenset(flags)))
        results.append(Recognizer.load(int8, engine="openvino", cache=False).emissions(utterances[0]))
    assert np.array_equal(*results)


def centred(log_probs: np.ndarray) -> np.ndarray:
    """Log-probabilities minus the mean of each frame."""
    return log_probs - log_probs.mean(1, keepdims=True)


def test_kept_parts_are_in_floating_point_and_have_no_scales(
    elastic: Path, utterances: list[Path], tmp_path: Path
) -> None:
    with pytest.warns(UserWarning, match="only 3"):
        calibration = calibrate(elastic, utterances)
    path = tmp_path / "int8.safetensors"
    quantize_file(elastic, path, "full", ["attention.0", "layers.1"], calibration)
    places = TensorFile.read(path).places
    layers = "w2v_model.encoder.layers"
    assert f"{layers}.0.self_attn.products.scale" not in places
    assert places[f"{layers}.1.self_attn.products.scale"].shape == (2,)
    assert places[f"{layers}.0.fc1.input_scale"].shape == (32,)
    assert places[f"{layers}.0.fc1.weight"].dtype == "I8"
    assert f"{layers}.1.fc1.input_scale" not in places
    assert places[f"{layers}.1.fc1.weight"].dtype == "F32"
    assert np.isfinite(Recognizer.load(path).emissions(utterances[0])).all()


def test_a_part_that_no_point_uses_is_named(
    tiny_model: Callable[..., ModelFile], utterances: list[Path], tmp_path: Path
) -> None:
    path = tmp_path / "unused.safetensors"
    write_model(path, tiny_model(learned_upsampling=(2,)))
    with pytest.warns(UserWarning, match="only 3"), pytest.raises(InputError, match=r"uses the part upsampling\.2"):
        calibrate(path, utterances)


def test_a_part_that_no_point_uses_can_be_kept(
    tiny_model: Callable[..., ModelFile],
    utterances: list[Path],
    run: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
) -> None:
    path, out, data = tmp_path / "unused.safetensors", tmp_path / "int8.safetensors", tmp_path / "data"
    write_model(path, tiny_model(learned_upsampling=(2,)))
    write_manifest(data, "train", [Utterance(each, len(read_audio(each)), "A") for each in utterances], Units.letters())
    options = ("--calibrate", data, "--keep", "upsampling.2", "--sensitivity")
    status, printed, err = run("quantize", path, out, *options)
    assert status == 0, err
    assert "layers.1" in printed
    assert "upsampling" not in printed
    assert TensorFile.read(out).places["w2v_model.encoder.upsampling.2.weight"].dtype == "F32"
    assert Recognizer.load(out).transcribe(utterances[0])


def test_invalid_calibrations_are_refused(elastic: Path, utterances: list[Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no utterances to calibrate on"):
        calibrate(elastic, [])
    absent = tmp_path / "absent.wav"
    with pytest.warns(UserWarning, match="only 1"), pytest.raises(InputError, match=r"absent\.wav"):
        calibrate(elastic, [absent])
    small = tmp_path / "int8.safetensors"
    quantize_file(elastic, small)
    with pytest.warns(UserWarning, match="only 1"), pytest.raises(InputError, match="already quantized"):
        calibrate(small, utterances[:1])


def test_samples_give_what_their_files_give(elastic: Path, utterances: list[Path]) -> None:
    with pytest.warns(UserWarning, match="only 3"):
        files, samples = (
            calibrate(elastic, audio) for audio in (utterances, [read_audio(path) for path in utterances])
        )
    assert files.source == samples.source
    for name, seen in files.inputs.items():
        assert torch.equal(seen.low, samples.inputs[name].low)
        assert torch.equal(seen.high, samples.inputs[name].high)
