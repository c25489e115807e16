"""FIFOs and devices in place of audio print a one-line error; no command blocks on them."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile

from w2v_compress.data.manifest import Utterance, write_manifest
from w2v_compress.data.units import Units

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(params=["FIFO", "device", "link to a FIFO", "folder"])
def special(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "special.wav"
    if request.param == "FIFO":
        os.mkfifo(path)
    elif request.param == "device":
        path.symlink_to("/dev/zero")
    elif request.param == "folder":
        path.mkdir()
    else:
        os.mkfifo(tmp_path / "fifo")
        path.symlink_to(tmp_path / "fifo")
    return path


def test_commands_that_read_audio(run: Run, special: Path, tiny_path: Path, wav: Callable[..., Path]) -> None:
    folder = special.parent / "data"
    folder.mkdir()
    good = wav("good.wav", 1.0)
    write_manifest(folder, "dev", [Utterance(path, 16_000, "A") for path in (good, special)], Units.letters())
    corpus = special.parent / "utterances.csv"
    corpus.write_text(f"path,text,split\n{special},A,dev\n{good},A,dev\n")
    data = (folder, "--subset", "dev")
    for command in (
        ["transcribe", tiny_path, special],
        ["evaluate", tiny_path, *data],
        ["sweep", tiny_path, *data],
        ["quantize", tiny_path, special.parent / "int8.safetensors", "--data", *data],
        ["benchmark", tiny_path, "--peers", "none", "--audio", special],
        ["prepare", "csv", corpus, special.parent / "prepared", "--strict"],
        ["export", special, special.parent / "out.safetensors"],
        ["info", special],
    ):
        status, _, err = run(*command)
        assert status == 1, command
        assert err.count("\n") == 1 + ("peak memory" in err), command
    assert f"{special}\tunreadable\tis not a file" in (special.parent / "prepared" / "rejected.tsv").read_text()


@pytest.mark.parametrize("special", ["FIFO"], indirect=True)
def test_training_fails(special: Path, tmp_path: Path, pretraining: tuple[str, ...]) -> None:
    data = tmp_path / "data"
    data.mkdir()
    soundfile.write(tmp_path / "good.wav", [0.1, -0.1] * 4000, 16_000)
    lines = [str(tmp_path), *["good.wav\t8000"] * 11, f"{special.name}\t8000"]
    (data / "train.tsv").write_text("\n".join(lines) + "\n")
    settings = [*pretraining, f"task.data={data}", f"hydra.run.dir={tmp_path}", f"checkpoint.save_dir={tmp_path}"]
    program = [str(Path(sys.executable).with_name("w2v-compress")), "train", *settings]
    done = subprocess.run(program, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert f"{special}: is not a plain file" in done.stderr
