"""Inference on platforms without wheels of fairseq: Windows, macOS, ARM, and Python 3.13."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile

ROOT = Path(__file__).resolve().parent.parent
TRAINING_PACKAGES = ("fairseq", "fairseq_cli", "hydra", "omegaconf", "editdistance")
UNIX_MODULES = ("resource", "fcntl", "termios", "pwd", "grp")

PROGRAM = """
import importlib, os, pkgutil, sys, types
from pathlib import Path
hidden, model, audio = sys.argv[1].split(), *sys.argv[2:]
import psutil  # before modules are hidden: it imports different ones on each system
sys.modules |= dict.fromkeys(hidden)  # simulates that they are not installed
for name in ("sched_getaffinity", "sched_setaffinity"):
    delattr(os, name)
del psutil.Process.cpu_affinity  # not available on macOS
psutil.Process.memory_info = lambda process: types.SimpleNamespace(rss=1, peak_wset=123456)  # as on Windows
read_text = Path.read_text
def read_no_system_file(path, *arguments, **options):
    if path.parts[1:2] in (("proc",), ("sys",)):
        raise FileNotFoundError(path)
    return read_text(path, *arguments, **options)
Path.read_text = read_no_system_file

import w2v_compress
for module in pkgutil.walk_packages(w2v_compress.__path__, "w2v_compress."):
    if module.name.split(".")[1] not in ("compat", "models", "criterions", "optim", "tasks", "__main__"):
        importlib.import_module(module.name)
from w2v_compress.evaluation.machine import describe_machine, peak_memory
machine = describe_machine()
assert machine["cores"] == psutil.cpu_count(), machine
assert machine["processor"], machine
assert peak_memory("cpu") == 123456
print(w2v_compress.load(model, precision="fp32").transcribe(audio))
"""


@pytest.mark.parametrize(
    "hidden", [TRAINING_PACKAGES, (*TRAINING_PACKAGES, *UNIX_MODULES)], ids=["without fairseq", "not Linux"]
)
def test_inference_needs_neither_fairseq_nor_linux(
    tiny_path: Path, wav: Callable[..., Path], run: Callable[..., tuple[int, str, str]], hidden: tuple[str, ...]
) -> None:
    audio = wav("speech.wav", 1.0)
    assert soundfile.info(audio).duration == 1.0
    command = [sys.executable, "-c", PROGRAM, " ".join(hidden), tiny_path, audio]
    done = subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    _, out, _ = run("transcribe", tiny_path, audio, "--precision", "fp32")
    assert done.stdout == out
    assert out.strip()


def test_the_command_line_imports_without_unix_modules() -> None:
    program = f"import sys; sys.modules |= dict.fromkeys({UNIX_MODULES!r}); import w2v_compress.cli; print('imported')"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "imported\n"
