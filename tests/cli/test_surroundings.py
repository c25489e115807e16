"""Interruptions, closed pipes, full disks and poor environments: no traceback, and nothing half-written."""

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from w2v_compress.interop.fairseq_checkpoint import write_checkpoint
from w2v_compress.model_file.storage import ModelFile

Run = Callable[..., tuple[int, str, str]]
PROGRAM = [sys.executable, "-m", "w2v_compress"]


def test_ctrl_c(tiny_path: Path, wav: Callable[..., Path], tmp_path: Path) -> None:
    audio = wav("long.wav", 60.0)
    out = tmp_path / "out.json"
    command = [*PROGRAM, "transcribe", tiny_path, *[audio] * 200, "--json", out, "--batch-size", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()  # the first transcript
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["long.wav"]


def test_a_closed_pipe_ends_quietly(tiny_path: Path, wav: Callable[..., Path]) -> None:
    command = [*PROGRAM, "transcribe", tiny_path, *[wav("a.wav", 1.0)] * 50]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    process.wait(timeout=60)
    assert "Traceback" not in err
    assert "Exception ignored" not in err


@pytest.mark.parametrize(
    "environment",
    [{"LC_ALL": "C"}, {"LANG": "C"}, {"PYTHONIOENCODING": "ascii"}, {}],
    ids=["LC_ALL=C", "LANG=C", "ascii streams", "no HOME"],
)
def test_poor_environments(
    environment: dict[str, str], tiny_path: Path, wav: Callable[..., Path], tmp_path: Path
) -> None:
    audio = tmp_path / "日本語 ü.wav"
    shutil.copy(wav("a.wav", 1.0), audio)
    folder = tmp_path / "folder"
    folder.mkdir()
    kept = {"PATH": os.environ["PATH"], "W2V_COMPRESS_CACHE": str(tmp_path / "cache")}
    if "PYTHONPATH" in os.environ:
        kept["PYTHONPATH"] = os.environ["PYTHONPATH"]
    for command in (
        ["transcribe", tiny_path, audio, "--timestamps"],
        ["info", tiny_path],
        ["transcribe", tiny_path, tmp_path / "fehlt ü.wav"],
    ):
        done = subprocess.run(
            [*PROGRAM, *command], env=kept | environment, cwd=folder, capture_output=True, check=False, timeout=60
        )
        assert done.returncode == ("fehlt" in str(command[-1]))
        assert b"Traceback" not in done.stderr
    assert list(folder.iterdir()) == []


def test_escape_characters_in_names_are_harmless(run: Run, tiny_path: Path, tmp_path: Path) -> None:
    status, out, err = run("transcribe", tiny_path, tmp_path / "a\x1b[2J\x07b.wav")
    assert status == 1
    assert "\x1b" not in out + err
    assert r"a\x1b[2J\x07b.wav: no such file" in err


def test_a_very_long_path(run: Run, tiny_path: Path, tmp_path: Path) -> None:
    for name in ("a" * 300 + ".wav", "/".join(["a" * 200] * 30)):
        status, _, err = run("transcribe", tiny_path, tmp_path / name)
        assert (status, "Traceback" in err) == (1, False)
        assert len(err) < 3000


def run_on_full_disk(size: int, arguments: list[object]) -> tuple[int, str]:
    """Run a command whose files end at `size` bytes, and return its exit status and standard error."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    command = [*PROGRAM, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, preexec_fn=limit)
    return done.returncode, done.stderr


Arguments = Callable[[Path, Path, Path], list[object]]
WRITERS: dict[str, tuple[str, int, Arguments]] = {
    "quantize": ("out.safetensors", 20_000, lambda model, data, out: ["quantize", model, out]),
    "export": (
        "out.safetensors",
        20_000,
        lambda model, data, out: ["export", model.with_name("checkpoint.pt"), out],
    ),
    "export onnx": ("out.onnx", 20_000, lambda model, data, out: ["export", model, out, "--format", "onnx"]),
    "export openvino": ("out.xml", 20_000, lambda model, data, out: ["export", model, out, "--format", "openvino"]),
    "export random": (
        "out.pt",
        200_000,
        lambda model, data, out: ["export", "--architecture", "sew-tiny", out],
    ),
    "transcribe --json": (
        "out.json",
        100,
        lambda model, data, out: ["transcribe", model, data.parent / "0.wav", "--json", out],
    ),
    "transcribe --ctm": (
        "out.ctm",
        10,
        lambda model, data, out: ["transcribe", model, data.parent / "0.wav", "--ctm", out],
    ),
    "evaluate --json": (
        "out.json",
        100,
        lambda model, data, out: ["evaluate", model, data, "--subset", "dev", "--json", out],
    ),
    "evaluate --alignment": (
        "out.txt",
        10,
        lambda model, data, out: ["evaluate", model, data, "--subset", "dev", "--alignment", out],
    ),
    "sweep --save": (
        "model.safetensors",
        20_000,
        lambda model, data, out: ["sweep", out, data, "--subset", "dev", "--save"],
    ),
    "prepare": (
        "prepared/dev.tsv",
        10,
        lambda model, data, out: ["prepare", "csv", data.parent / "utterances.csv", out.parent],
    ),
}


SLOW = ("export", "export onnx", "export openvino", "export random", "sweep --save")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.soak) if name in SLOW else name for name in WRITERS]
)
def test_a_full_disk(
    name: str,
    data: Path,
    tiny_path: Path,
    tiny_model: Callable[..., ModelFile],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("W2V_COMPRESS_CACHE", str(tmp_path / "graphs"))
    target, size, arguments = WRITERS[name]
    folder = tmp_path / "full"
    folder.mkdir()
    out = folder / target
    model = tmp_path / "model.safetensors"
    shutil.copy(tiny_path, model)
    write_checkpoint(tmp_path / "checkpoint.pt", tiny_model())
    (tmp_path / "utterances.csv").write_text("path,text,split\n0.wav,ONE,dev\n1.wav,TWO,dev\n")
    out.parent.mkdir(exist_ok=True)
    if name == "sweep --save":
        shutil.copy(tiny_path, out)
    elif name != "prepare":
        out.write_bytes(b"old")
    before = out.read_bytes() if out.exists() else None
    status, err = run_on_full_disk(size, arguments(model, data, out))
    assert status == 1
    assert "Traceback" not in err
    assert "cannot be written" in err.splitlines()[-1]
    assert (out.read_bytes() if out.exists() else None) == before
    assert [path for path in folder.rglob("*") if ".tmp" in path.name] == []
