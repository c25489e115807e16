"""A missing package prints one line with the command that installs it."""

import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from w2v_compress.errors import InputError
from w2v_compress.extras import install_command, require, require_fairseq

ROOT = Path(__file__).resolve().parent.parent
Run = Callable[..., tuple[int, str, str]]


def test_the_install_command_has_the_requirements_of_setup_py() -> None:
    source = (ROOT / "setup.py").read_text(encoding="utf-8")
    for extra in ("plot", "energy", "slurm", "onnx", "openvino", "transformers", "lm"):
        listed = re.search(rf"^{extra.upper()} = \[([^\]]*)\]", source, re.MULTILINE)
        assert listed is not None
        names = re.findall(r'"([A-Za-z-]+)[<>=]', listed[1])
        command = install_command(extra)
        assert re.findall(r"'([A-Za-z-]+)[<>=]", command) == names, command


def test_the_install_command_of_a_checkout_installs_the_checkout(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "w2v_compress", tmp_path / "w2v_compress", ignore=shutil.ignore_patterns("__pycache__"))
    program = "import sys; sys.path.insert(0, sys.argv[1]); from w2v_compress.extras import *; "
    program += "import importlib.metadata as m; m.requires = lambda name: (_ for _ in ()).throw(m.PackageNotFoundError)"
    program += "; print(install_command('plot'))"
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout == f"pip install -e '{tmp_path}[plot]'\n"


def test_require_returns_the_first_package_or_names_the_missing_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert require("--plot", "plot", "matplotlib").__name__ == "matplotlib"
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(InputError, match=r"^--format onnx needs onnxscript \(.*\): pip install 'onnx>=.*onnxruntime>="):
        require("--format onnx", "onnx", "onnx", "onnxscript", "onnxruntime")


@pytest.mark.parametrize("package", ["fairseq", "omegaconf", "hydra"])
def test_commands_that_need_fairseq(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / "checkpoint.pt").write_bytes(b"PK")
    for command, purpose in (
        (["train", "model=student_ctc"], "train"),
        (["export", tmp_path / "checkpoint.pt", tmp_path / "out.safetensors"], "reading a fairseq checkpoint"),
    ):
        status, out, err = run(*command)
        assert (status, out, err.count("\n")) == (1, "", 1)
        assert err.startswith(
            f"w2v-compress: {purpose} needs {package}, which is not installed: pip install ve-fairseq"
        )


def test_the_command_for_fairseq_has_the_requirements_of_setup_py(monkeypatch: pytest.MonkeyPatch) -> None:
    source = (ROOT / "setup.py").read_text(encoding="utf-8")
    required = re.findall(r'f"([^";]+); \{TRAINING_PLATFORM\}"', source)
    assert len(required) == 4
    monkeypatch.setitem(sys.modules, "fairseq", None)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    with pytest.raises(InputError) as caught:
        require_fairseq("train")
    _, _, command = str(caught.value).partition("pip install ")
    assert command.replace("'", "").split() == required


def test_platforms_without_wheels_of_fairseq(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fairseq", None)
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    with pytest.raises(InputError, match=r"there are no wheels for Linux on arm64 with Python .*; use Linux on x86-64"):
        require_fairseq("train")
