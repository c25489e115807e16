"""Exported ONNX files in ONNX Runtime, compared with `Recognizer`."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import w2v_compress
from w2v_compress.data.audio import read_audio
from w2v_compress.errors import InputError
from w2v_compress.evaluation.calibrate import calibrate
from w2v_compress.interop import onnx as onnx_export
from w2v_compress.interop.parity import Difference
from w2v_compress.model_file.storage import quantize_file
from w2v_compress.model_file.tensor_file import read_header
from w2v_compress.processor import processor

Run = Callable[..., tuple[int, str, str]]
INT8 = {False: ["--int8"], True: ["--int8", "--reduce-range"]}
"""Options by whether the range of the weights is reduced."""


def session(path: Path) -> Callable[[np.ndarray, np.ndarray], Any]:
    loaded = onnxruntime.InferenceSession(path)
    return lambda audio, lengths: loaded.run(["logits", "frames"], {"audio": audio, "lengths": lengths})


@pytest.mark.parametrize(
    ("like", "normalize", "point", "changes"),
    [
        ("large", True, "1,1,1", {}),
        ("base", False, "3,2,1", {}),
        ("base", True, "2,1,2", {"learned_upsampling": (2,), "conv_pos": 15}),
        ("base", False, "3,2,1", {"centered_positions": True}),
    ],
    ids=["layer-norm", "group-norm", "learned-upsampling", "centred-positions"],
)
def test_logits_equal_those_of_the_recognizer(
    like: str,
    normalize: bool,
    point: str,
    changes: dict[str, Any],
    run: Run,
    tmp_path: Path,
    small_path: Callable[..., Path],
    largest_difference: Callable[..., float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, out = small_path(like, normalize=normalize, **changes), tmp_path / "out.onnx"
    external = "learned_upsampling" in changes
    if external:
        monkeypatch.setattr(onnx_export, "LARGEST_IN_ONE_FILE", 0)
    status, printed, err = run("export", model, out, "--format", "onnx", "--point", point)
    assert (status, err) == (0, "")
    assert printed.startswith(f"{out}: ")
    assert f"point {point}; " in printed
    assert sorted(os.listdir(tmp_path)) == ["out.onnx", *(["out.onnx.data"] if external else []), "small.safetensors"]
    assert largest_difference(model, point, session(out)) < 2e-4
    metadata = onnxruntime.InferenceSession(out).get_modelmeta().custom_metadata_map
    assert json.loads(metadata["units"]) == list(read_header(model).units.symbols)
    assert metadata["point"] == point
    assert metadata["w2v_compress"] == w2v_compress.__version__
    assert (metadata["blank"], metadata["sample_rate"], metadata["samples_per_frame"]) == ("0", "16000", "20")


def test_group_norm_over_long_audio_is_exact(
    tmp_path: Path, small_path: Callable[..., Path], error_on_long_audio: Callable[..., float]
) -> None:
    model, out = (
        small_path("base", normalize=False, conv_layers=((16, 10, 5), (16, 8, 8), (16, 8, 8))),
        tmp_path / "out.onnx",
    )
    onnx_export.export_onnx(model, out)
    assert error_on_long_audio(model, session(out)) < 1e-6


@pytest.mark.parametrize("reduce_range", [False, True])
def test_int8_files_are_dequantized_and_int8_quantizes_matrix_products_only(
    reduce_range: bool,
    run: Run,
    tmp_path: Path,
    small_path: Callable[..., Path],
    largest_difference: Callable[..., float],
) -> None:
    stored, out = tmp_path / "int8.safetensors", tmp_path / "out.onnx"
    model = small_path("large")
    quantize_file(model, stored)
    status, printed, err = run(
        "export", stored, out, "--format", "onnx", *INT8[reduce_range], "--opset", "21", "--point", "1,1,2:2"
    )
    assert (status, err) == (0, "")
    assert "weights were dequantized to fp32" in printed
    assert "int8: logits differ by up to " in printed
    graph = onnx.load(out)
    assert graph.opset_import[0].version == 21
    assert {each.key: each.value for each in graph.metadata_props}["point"] == "1,1,2"
    operators = [node.op_type for node in graph.graph.node]
    assert (
        operators.count("MatMulInteger") == 1 + 1 + 2 + 1 + 6 + 1
    )  # extractor of three layers, projection, layer, head
    assert "ConvInteger" not in operators
    assert largest_weight(graph) == (64 if reduce_range else 127)
    if reduce_range or not processor().overflows_int8:
        assert 1e-4 < largest_difference(model, "1,1,2", session(out)) < (6 if reduce_range else 3)


def test_a_difference_leaves_existing_files(
    tmp_path: Path, small_path: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, out = small_path("large"), tmp_path / "out.onnx"
    out.write_text("old")
    monkeypatch.setattr(onnx_export, "measure_difference", lambda *_: Difference(0.0011, 0.0))
    with pytest.raises(InputError, match=r"out\.onnx: not written: .* by up to 0\.0011; at most 0\.001 is"):
        onnx_export.export_onnx(model, out)
    assert out.read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["out.onnx", "small.safetensors"]
    monkeypatch.setattr(onnx_export, "measure_difference", lambda *_: Difference(0.001, 0.0))
    assert onnx_export.export_onnx(model, out).files == (out,)
    onnx.checker.check_model(out)


def test_invalid_arguments_print_one_line(
    run: Run, tmp_path: Path, small_path: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, out = small_path("base", learned_upsampling=(2,)), tmp_path / "out.onnx"
    for arguments, message in (
        ((model, out, "--opset", "17"), "ONNX opset 17 is not supported; it must be from 18 to 22"),
        ((model, tmp_path / "out.pb"), f"{tmp_path / 'out.pb'}: its name must end with .onnx"),
        ((model, out, "--point", "3,1,1"), "compression point 3,1,1: this network learned to upsample for "),
        ((model, out, "--point", "1,4,1", "--strict"), "the model was not trained for the compression point 1,4,1; "),
        ((tmp_path / "absent", out), f"{tmp_path / 'absent'}: no such file"),
    ):
        status, printed, err = run("export", *arguments, "--format", "onnx")
        assert (status, printed) == (1, "")
        assert err.startswith(f"w2v-compress: {message}")
        assert err.count("\n") == 1
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    status, _, err = run("export", model, out, "--format", "onnx")
    assert (status, err.count("\n")) == (1, 1)
    assert "needs onnxscript" in err
    assert "pip install 'onnx>=" in err
    assert os.listdir(tmp_path) == ["small.safetensors"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--int8"],
        ["--opset", "20"],
        ["--point", "2,1,1"],
        ["--format", "openvino", "--int8"],
        ["--format", "onnx", "--reduce-range"],
        ["--format", "transformers", "--opset", "20"],
        ["--format", "onnx", "--dict", "dict.ltr.txt"],
        ["--format", "onnx", "--architecture", "base"],
        ["--format", "onnx", "another"],
        ["--format", "tflite"],
    ],
)
def test_options_of_other_formats_are_usage_errors(run: Run, arguments: list[str]) -> None:
    assert run("export", "model.safetensors", "out", *arguments)[0] == 2


@pytest.mark.parametrize("reduce_range", [False, True])
def test_calibrated_models_are_exported_with_their_scales(
    reduce_range: bool, run: Run, tmp_path: Path, small_path: Callable[..., Path], wav: Callable[..., Path]
) -> None:
    model, int8, out = small_path("base"), tmp_path / "int8.safetensors", tmp_path / "out.onnx"
    audio = wav("speech.wav", 2.0)
    with pytest.warns(UserWarning, match="only 1 utterances"):
        calibration = calibrate(model, [audio])
    quantize_file(model, int8, "full", (), calibration)
    status, printed, err = run("export", int8, out, "--format", "onnx", *INT8[reduce_range])
    assert (status, err) == (0, "")
    assert "int8: logits differ by up to " in printed
    assert "dequantized" not in printed
    graph = onnx.load(out)
    assert [node.op_type for node in graph.graph.node].count("QuantizeLinear") >= 9
    assert largest_weight(graph) == (64 if reduce_range else 127)
    samples = read_audio(audio)[:64_000]
    logits, _ = session(out)(samples[None], np.array([len(samples)]))
    expected = w2v_compress.load(str(int8), engine="torch").emissions(samples, 16_000)
    difference = (logits[0] - logits[0].mean(1, keepdims=True)) - (expected - expected.mean(1, keepdims=True))
    if reduce_range or not processor().overflows_int8:
        assert 1e-4 < np.linalg.norm(difference) / np.linalg.norm(expected - expected.mean(1, keepdims=True)) < 0.06


def largest_weight(model: onnx.ModelProto) -> int:
    """Largest absolute value of the int8 matrices of a model."""
    weights = [onnx.numpy_helper.to_array(each) for each in model.graph.initializer]
    return max(int(np.abs(each.astype(int)).max()) for each in weights if each.dtype == np.int8 and each.ndim == 2)
