"""Exported OpenVINO files in OpenVINO, compared with `Recognizer`."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest

from w2v_compress.interop.openvino import export_openvino
from w2v_compress.model_file.tensor_file import read_header

Run = Callable[..., tuple[int, str, str]]


def test_logits_equal_those_of_the_recognizer(
    run: Run,
    tmp_path: Path,
    small_path: Callable[..., Path],
    largest_difference: Callable[..., float],
) -> None:
    model, out = small_path("base", point="2,1,2"), tmp_path / "out.xml"
    status, printed, err = run("export", model, out, "--format", "openvino")
    assert (status, err) == (0, "")
    assert printed.startswith(f"{out}: ")
    assert sorted(os.listdir(tmp_path)) == ["out.bin", "out.xml", "small.safetensors"]
    network = openvino.Core().read_model(out)
    compiled = openvino.Core().compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def infer(audio: np.ndarray, lengths: np.ndarray) -> Any:
        outputs = compiled({"audio": audio, "lengths": lengths})
        return outputs["logits"], outputs["frames"]

    assert largest_difference(model, "2,1,2", infer) < 2e-4
    assert json.loads(network.get_rt_info(["w2v_compress", "units"]).astype(str)) == list(
        read_header(model).units.symbols
    )
    assert network.get_rt_info(["w2v_compress", "point"]).astype(str) == "2,1,2"


def test_group_norm_over_long_audio_is_exact(
    tmp_path: Path, small_path: Callable[..., Path], error_on_long_audio: Callable[..., float]
) -> None:
    model, out = (
        small_path("base", normalize=False, conv_layers=((16, 10, 5), (16, 8, 8), (16, 8, 8))),
        tmp_path / "out.xml",
    )
    export_openvino(model, out)
    compiled = openvino.Core().compile_model(out, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def infer(audio: np.ndarray, lengths: np.ndarray) -> Any:
        outputs = compiled({"audio": audio, "lengths": lengths})
        return outputs["logits"], outputs["frames"]

    assert error_on_long_audio(model, infer) < 1e-6


def test_a_missing_package_and_a_wrong_suffix_print_one_line(
    run: Run, tmp_path: Path, small_path: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_path("large")
    status, _, err = run("export", model, tmp_path / "out.bin", "--format", "openvino")
    assert (status, err) == (1, f"w2v-compress: {tmp_path / 'out.bin'}: its name must end with .xml\n")
    monkeypatch.setitem(sys.modules, "openvino", None)
    status, _, err = run("export", model, tmp_path / "out.xml", "--format", "openvino")
    assert (status, err.count("\n")) == (1, 1)
    assert "needs openvino " in err
    assert "pip install 'openvino>=" in err


def test_the_graph_is_right_in_bf16(tmp_path: Path, tiny_path: Path) -> None:
    """OpenVINO computes in bf16 by default on processors with AMX, which is wrong for narrow groups of channels."""
    export_openvino(tiny_path, tmp_path / "out.xml")
    inputs = {"audio": np.random.default_rng(0).normal(size=(1, 16_000)).astype(np.float32)}
    inputs["lengths"] = np.array([16_000])
    exact, reduced = (
        openvino.Core().compile_model(tmp_path / "out.xml", "CPU", {"INFERENCE_PRECISION_HINT": hint})(inputs)["logits"]
        for hint in ("f32", "bf16")
    )
    assert np.linalg.norm(reduced - exact) < 0.05 * np.linalg.norm(exact)
