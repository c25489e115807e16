"""Eight shards of each verb, killed at random and started again, give the result of the whole."""

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from w2v_compress.shards import Shard

Run = Callable[..., tuple[int, str, str]]
SHARDS = 8
FILES = 24


@pytest.fixture
def files(wav: Callable[..., Path]) -> list[Path]:
    return [wav(f"{number:02}.wav", 0.5 + 0.1 * (number % 5), seed=number) for number in range(FILES)]


def run_killed(arguments: list[object], folder: Path, generator: random.Random) -> int:
    """Run all shards, two at a time; kill most of them once their file has grown. Returns the number of kills."""
    kills = 0
    for index in range(1, SHARDS + 1):
        command = [sys.executable, "-m", "w2v_compress", *map(str, arguments), "--shard", f"{index}/{SHARDS}"]
        if generator.random() < 0.7:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            path, lines = folder / Shard(index, SHARDS).file_name, generator.randrange(1, 3)
            while process.poll() is None and not (path.exists() and path.read_bytes().count(b"\n") > lines):
                time.sleep(0.005)
            kills += process.poll() is None
            process.kill()
            process.wait()
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
    return kills


def test_transcribe(run: Run, files: list[Path], tiny_path: Path, tmp_path: Path) -> None:
    names = tmp_path / "list.txt"
    names.write_text("".join(f"{file}\n" for file in files))
    options = ["transcribe", tiny_path, "--list", names, "--batch-size", 1]
    run_killed([*options, "--out", tmp_path / "parts"], tmp_path / "parts", random.Random(1))
    status, whole, _ = run(*options)
    assert status == 0
    status, merged, _ = run("merge", tmp_path / "parts", "--json", tmp_path / "merged.json")
    assert status == 0
    assert merged == whole
    transcripts = json.loads((tmp_path / "merged.json").read_text())["transcripts"]
    assert [transcript["file"] for transcript in transcripts] == [str(file) for file in files]


def test_prepare(run: Run, files: list[Path], tmp_path: Path) -> None:
    rows = [f"{file},ONE TWO,{'train' if number % 3 else 'dev'}" for number, file in enumerate(files)]
    rows += ["missing.wav,THREE,train", f"{files[0]},ONE,dev", f"{tmp_path / 'x.wav'},,dev"]
    corpus = tmp_path / "utterances.csv"
    corpus.write_text("\n".join(["path,text,split", *rows]) + "\n")
    run_killed(["prepare", "csv", corpus, tmp_path / "parts"], tmp_path / "parts" / "shards", random.Random(2))
    status, merged, _ = run("merge", tmp_path / "parts" / "shards")
    assert status == 0
    status, whole, _ = run("prepare", "csv", corpus, tmp_path / "whole")
    assert status == 0
    assert merged.replace("parts", "whole") == whole
    for name in ("train.tsv", "train.ltr", "dev.wrd", "dict.ltr.txt", "rejected.tsv"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_evaluate(run: Run, data: Path, tiny_path: Path, tmp_path: Path) -> None:
    options = ["evaluate", tiny_path, data, "--subset", "dev"]
    for shard in ("2/2", "1/2"):
        assert run(*options, "--shard", shard, "--out", tmp_path / "parts")[0] == 0
    assert run("merge", tmp_path / "parts", "--json", tmp_path / "merged.json")[0] == 0
    assert run(*options, "--json", tmp_path / "whole.json")[0] == 0
    merged, whole = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("merged", "whole"))
    for name in ("wer", "cer", "utterances", "audio_seconds", "point"):
        assert merged[name] == whole[name], name


def test_what_goes_wrong(run: Run, files: list[Path], tiny_path: Path, tmp_path: Path) -> None:
    out = ["--out", tmp_path / "parts"]
    assert run("transcribe", tiny_path, files[0], "--shard", "1/2")[0] == 2
    assert run("transcribe", tiny_path, files[0], *out)[0] == 2
    assert run("transcribe", tiny_path, files[0], "--shard", "1/2", *out, "--json", "x.json")[0] == 2
    assert run("transcribe", tiny_path, files[0], "--list", files[1])[0] == 2
    status, _, err = run("transcribe", tiny_path, files[0], "--shard", "3/2", *out)
    assert (status, err.count("\n")) == (1, 1)
    assert "--shard: shard '3/2' must be I/N" in err
    (tmp_path / "empty.txt").write_text("\n")
    status, _, err = run("transcribe", tiny_path, "--list", tmp_path / "empty.txt")
    assert status == 1
    assert "empty.txt: has no path" in err
    assert run("transcribe", tiny_path, *files[:4], "--shard", "1/2", *out)[0] == 0
    status, _, err = run("merge", tmp_path / "parts")
    assert status == 1
    assert "no shard 2 of 2" in err
    status, _, err = run("transcribe", tiny_path, *files[:3], "--shard", "1/2", *out)
    assert status == 1
    assert "is of another job" in err
    bad = tmp_path / "bad.wav"
    bad.write_text("no audio")
    parts = tmp_path / "with errors"
    for index in (1, 2):
        run("transcribe", tiny_path, bad, files[0], "--shard", f"{index}/2", "--out", parts)
    status, out_text, err = run("merge", parts)
    assert status == 1
    assert f"{bad}: is damaged" in err
    assert out_text.count("\n") == 1
