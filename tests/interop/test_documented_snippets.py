"""Run the ONNX Runtime and OpenVINO snippets of docs/export.md as printed."""

import re
import subprocess
import sys
from collections.abc import Callable
from difflib import SequenceMatcher
from pathlib import Path

import pytest

from w2v_compress.runtime.recognizer import Recognizer

DOCS = Path(__file__).resolve().parents[2] / "docs"
Run = Callable[..., tuple[int, str, str]]
Snippet = Callable[[str, str, str], float]


@pytest.fixture
def agreement(run: Run, tmp_path: Path, small_path: Callable[..., Path], wav: Callable[..., Path]) -> Snippet:
    """agreement(format, file, containing) exports a model, runs the snippet that contains a text, and returns how far
    its output agrees with the recognizer's, from 0 to 1.
    """

    def compare(format: str, file: str, containing: str) -> float:
        path, audio = small_path("large"), wav("speech.wav", 1.0)
        assert run("export", path, tmp_path / file, "--format", format)[0] == 0
        blocks = re.findall(r"```python\n(.*?)```", (DOCS / "export.md").read_text(encoding="utf-8"), re.DOTALL)
        (program,) = [block for block in blocks if containing in block]
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        expected = Recognizer.load(path, precision="fp32").transcribe(audio)
        return SequenceMatcher(None, done.stdout.strip(), expected.strip(), autojunk=False).ratio()

    return compare


def test_the_onnx_snippet_works_as_printed(agreement: Snippet) -> None:
    assert agreement("onnx", "model.onnx", "onnxruntime") == 1


def test_the_openvino_snippet_works_as_printed(agreement: Snippet) -> None:
    """OpenVINO computes in bf16 where the processor has units for it, so that near ties of random weights differ."""
    assert agreement("openvino", "model.xml", 'get_rt_info(["w2v_compress"') > 0.9
