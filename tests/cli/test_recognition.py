"""`transcribe`, `evaluate` and `sweep` as users see them, at each compression point."""

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from w2v_compress.model_file.storage import ModelFile, read_model, store_sweep, write_model
from w2v_compress.model_file.sweep import Sweep, SweptPoint
from w2v_compress.model_file.tensor_file import read_header
from w2v_compress.nn.compression import UNCOMPRESSED, CompressionPoint, CompressionSpace
from w2v_compress.runtime.engines.torch_engine import TorchEngine
from w2v_compress.runtime.recognizer import Recognizer

Run = Callable[..., tuple[int, str, str]]
SPACE = CompressionSpace(squeeze=(1, 2), query_pool=(1,), key_value_pool=(1, 2))


@pytest.fixture
def elastic_path(tiny_model: Callable[..., ModelFile], tmp_path: Path) -> Path:
    """The tiny model, marked as trained for the points of `SPACE`."""
    model, path = tiny_model(), tmp_path / "elastic.safetensors"
    write_model(path, ModelFile(dataclasses.replace(model.header, space=SPACE), model.state))
    return path


@pytest.fixture
def swept_path(elastic_path: Path) -> Path:
    """The elastic model with a stored sweep in which each point is Pareto-optimal."""
    figures = {"1,1,1": (0.10, 0.4), "1,1,2": (0.11, 0.3), "2,1,1": (0.12, 0.2), "2,1,2": (0.30, 0.1)}
    points = tuple(
        SweptPoint(point=CompressionPoint.parse(point), wer=wer, real_time_factor=time, macs_per_second=1e9)
        for point, (wer, time) in figures.items()
    )
    machine = {"processor": "abacus", "threads": 4, "torch": "2.0"}
    store_sweep(elastic_path, Sweep(subset="dev", precision="fp32", machine=machine, points=points))
    return elastic_path


def before_the_peak(err: str) -> str:
    """Return what `transcribe` wrote to standard error before its last line, the peak memory."""
    before, _, last = err.removesuffix("\n").rpartition("\n")
    assert re.fullmatch(r"w2v-compress: peak memory \d+\.\d\d MB", last)
    return before


def test_transcribe_prints_the_text_one_line_a_file(
    run: Run, tiny_path: Path, wav: Callable[..., Path], tmp_path: Path
) -> None:
    paths = [wav("a.wav", 1.0), wav("b.wav", 2.0, seed=1)]
    recognizer = Recognizer.load(tiny_path, precision="fp32")
    texts = recognizer.transcribe(paths)
    report, folder = tmp_path / "report.json", tmp_path / "emissions"
    arguments = ("--precision", "fp32", "--json", report, "--emissions", folder)
    status, out, err = run("transcribe", tiny_path, *paths, *arguments)
    assert (status, out, before_the_peak(err)) == (0, "".join(f"{text}\n" for text in texts), "")
    values = json.loads(report.read_text())
    assert f"{values['peak_memory_bytes'] / 1e6:.2f} MB" in err
    assert 1e8 < values["peak_memory_bytes"] < 1e10
    assert values["precision"] == "fp32"
    assert [entry["text"] for entry in values["transcripts"]] == texts
    assert [entry["audio_seconds"] for entry in values["transcripts"]] == [1.0, 2.0]
    assert all(entry["compute_seconds"] > 0 for entry in values["transcripts"])
    for path in paths:
        expected = recognizer.emissions(path)
        np.testing.assert_allclose(np.load(folder / f"{path.stem}.npy"), expected, rtol=0, atol=1e-4)


def test_standard_input_is_transcribed(tiny_path: Path, wav: Callable[..., Path], tmp_path: Path) -> None:
    first, second = wav("first.wav", 1.0), wav("second.wav", 2.0, seed=1)
    command = [
        sys.executable,
        "-m",
        "w2v_compress",
        "transcribe",
        str(tiny_path),
        str(first),
        "-",
        "--precision",
        "fp32",
    ]
    command += ["--emissions", str(tmp_path / "out"), "--ctm", str(tmp_path / "out.ctm")]
    with second.open("rb") as file:
        cat = subprocess.Popen(["cat"], stdin=file, stdout=subprocess.PIPE)
        done = subprocess.run(command, stdin=cat.stdout, capture_output=True, text=True, check=True)
    recognizer = Recognizer.load(tiny_path, precision="fp32")
    assert done.stdout.splitlines() == recognizer.transcribe([first, second])
    assert (tmp_path / "out" / "stdin.npy").is_file()
    assert "\nstdin 1 " in (tmp_path / "out.ctm").read_text()
    done = subprocess.run([*command, "-"], capture_output=True, text=True, check=False)
    assert (done.returncode, "standard input can only be read once" in done.stderr) == (2, True)
    done = subprocess.run(command, input="no audio", capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "w2v-compress: <stdin>: is damaged, cut short, or not audio" in done.stderr


def test_invalid_audio_prints_one_line_per_file_and_exits_with_status_1(
    run: Run, tiny_path: Path, wav: Callable[..., Path], tmp_path: Path
) -> None:
    good, truncated = wav("good.wav", 1.0), wav("truncated.wav", 1.0)
    truncated.write_bytes(truncated.read_bytes()[:20_000])
    text = tmp_path / "text.wav"
    text.write_text("This is not audio.\n" * 100)
    bad = [truncated, text, tmp_path / "missing.wav", tmp_path]
    report = tmp_path / "report.json"
    status, out, err = run("transcribe", tiny_path, bad[0], good, *bad[1:], "--json", report)
    assert status == 1
    assert out == Recognizer.load(tiny_path).transcribe(good) + "\n"
    lines = before_the_peak(err).splitlines()
    assert len(lines) == len(bad)
    for line, path in zip(lines, bad, strict=True):
        assert line.startswith(f"w2v-compress: {path}: ")
    assert ["error" in entry for entry in json.loads(report.read_text())["transcripts"]] == [True, False, *[True] * 3]


def test_resampling_is_reported_once_in_one_line(run: Run, tiny_path: Path, tmp_path: Path) -> None:
    paths = [tmp_path / f"{index}.wav" for index in range(3)]
    for path in paths:
        soundfile.write(path, 0.1 * np.random.default_rng(0).normal(size=8_000), 8_000)
    for _ in range(2):  # once a run, not once a process
        status, out, err = run("transcribe", tiny_path, *paths, "--batch-size", 1)
        assert (status, out.count("\n")) == (0, 3)
        expected = f"w2v-compress: {paths[0]}: is at 8000 Hz; audio that is not at 16000 Hz is resampled"
        assert before_the_peak(err) == expected


def test_emissions_of_files_with_the_same_name_are_rejected(
    run: Run, tiny_path: Path, wav: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    first, second = wav("a.wav", 1.0), wav("other/a.wav", 1.0, seed=1)
    status, out, err = run("transcribe", tiny_path, first, second, "--emissions", tmp_path / "out")
    assert (status, out) == (1, "")
    assert str(first) in err
    assert str(second) in err


def test_evaluate(run: Run, tiny_path: Path, data: Path, tmp_path: Path) -> None:
    report, aligned = tmp_path / "report.json", tmp_path / "aligned.txt"
    options = ("--subset", "dev", "--precision", "fp32", "--alignment", aligned)
    status, out, err = run("evaluate", tiny_path, data, *options, "--json", report)
    assert (status, err) == (0, "")
    values = json.loads(report.read_text())
    kinds = [values[kind] for kind in ("substitutions", "deletions", "insertions")]
    assert sum(kinds) == 1
    assert f"{kinds[0]}, {kinds[1]}, {kinds[2]} words" in out
    written = aligned.read_text()
    assert written.count("REF: ") == written.count("HYP: ") == 2
    marks = [line for line in written.splitlines() if line.strip() in ("S", "D", "I")]
    assert len(marks) == 1
    status, _, err = run("evaluate", tiny_path, data, "--subset", "absent")
    assert status == 1
    assert len(err.splitlines()) == 1


def test_the_chosen_point_is_run(run: Run, elastic_path: Path, data: Path, wav: Callable[..., Path]) -> None:
    audio, report = wav("a.wav", 2.0), data / "report.json"
    recognizer = Recognizer.load(elastic_path)
    texts = {point: recognizer.transcribe(audio, point=point) for point in ("1,1,1", "2,1,2")}
    assert len(set(texts.values())) == 2
    for point, text in texts.items():
        status, out, err = run("transcribe", elastic_path, audio, "--point", point, "--json", report)
        assert (status, out, before_the_peak(err)) == (0, f"{text}\n", "")
        assert json.loads(report.read_text())["point"] == point
    status, out, _ = run("evaluate", elastic_path, data, "--subset", "dev", "--point", "2,1,2", "--json", report)
    assert status == 0
    assert "2,1,2" in out
    values = json.loads(report.read_text())
    assert (values["point"], values["wer"]["value"] > 1 / values["words"]) == ("2,1,2", True)


def test_untrained_points_print_one_line(run: Run, elastic_path: Path, wav: Callable[..., Path]) -> None:
    audio = wav("a.wav", 1.0)
    line = (
        "w2v-compress: the model was not trained for the compression point 3,1,1; "
        "it was for S of 1 2, Q of 1, K of 1 2\n"
    )
    status, out, err = run("transcribe", elastic_path, audio, "--point", "3,1,1")
    assert (status, out.count("\n"), before_the_peak(err)) == (0, 1, line.removesuffix("\n"))
    assert run("transcribe", elastic_path, audio, "--point", "3,1,1", "--strict") == (1, "", line)
    for point, message in (("2,1", "must be S,Q,K"), ("1,1:2:1,1", "has 3 factors, but the network has 2 layers")):
        status, out, err = run("transcribe", elastic_path, audio, "--point", point)
        assert (status, out, err.count("\n")) == (1, "", 1)
        assert message in err


@pytest.mark.parametrize(
    ("option", "value", "point"),
    [
        ("--budget-rtf", "0.5", "1,1,1"),
        ("--budget-rtf", "0.3", "1,1,2"),
        ("--budget-rtf", "0.29", "2,1,1"),
        ("--max-wer-increase", "0", "1,1,1"),
        ("--max-wer-increase", "2", "2,1,1"),
        ("--max-wer-increase", "50", "2,1,2"),
    ],
)
def test_a_budget_chooses_the_point(
    run: Run, swept_path: Path, wav: Callable[..., Path], option: str, value: str, point: str, tmp_path: Path
) -> None:
    report = tmp_path / "report.json"
    status, _, err = run("transcribe", swept_path, wav("a.wav", 1.0), option, value, "--json", report)
    assert status == 0
    assert f"w2v-compress: point {point}: WER " in err
    assert ("the stored sweep was measured on abacus, 4 threads, torch 2.0; times differ on" in err) == (
        "rtf" in option
    )
    assert json.loads(report.read_text())["point"] == point


def test_budgets_that_cannot_be_met(run: Run, swept_path: Path, tiny_path: Path, wav: Callable[..., Path]) -> None:
    audio = wav("a.wav", 1.0)
    for arguments, message in (
        ((swept_path, audio, "--budget-rtf", "0.05"), "the fastest is 2,1,2 with 0.1"),
        ((swept_path, audio, "--max-wer-increase", "-1"), "the most accurate is 1,1,1 with 10.00%"),
        ((swept_path, audio, "--budget-rtf", "1", "--precision", "bf16"), "the stored sweep was measured in fp32"),
        ((tiny_path, audio, "--budget-rtf", "1"), "no sweep is stored"),
    ):
        status, out, err = run("transcribe", *arguments)
        assert (status, out, err.count("\n")) == (1, "", 1)
        assert err.startswith(f"w2v-compress: {arguments[0]}: ")
        assert message in err
    assert run("transcribe", swept_path, audio, "--budget-rtf", "1", "--point", "1,1,1")[0] == 2


def test_sweep(run: Run, elastic_path: Path, data: Path, tmp_path: Path) -> None:
    report, picture = tmp_path / "sweep.json", tmp_path / "sweep.png"
    before = read_model(elastic_path).state
    arguments = ("sweep", elastic_path, data, "--subset", "dev", "--timed-seconds", "1", "--precision", "fp32")
    status, out, err = run(*arguments, "--save", "--json", report, "--plot", picture)
    assert (status, err) == (0, "")
    values = json.loads(report.read_text())
    points = [row["point"] for row in values["points"]]
    assert points == ["1,1,1", "1,1,2", "2,1,1", "2,1,2"]
    assert all(point in out for point in points)
    first, second = values["points"][0], values["points"][2]
    assert first["wer"]["value"] == 1 / values["words"]
    assert second["wer_difference"]["value"] == pytest.approx(second["wer"]["value"] - first["wer"]["value"])
    assert (values["reference"], values["subset"], values["repeats"], values["timed_utterances"]) == (
        "1,1,1",
        "dev",
        9,
        1,
    )
    assert picture.read_bytes().startswith(b"\x89PNG")
    stored = read_header(elastic_path).sweep
    assert stored is not None
    assert [(str(row.point), row.wer, row.real_time_factor, row.macs_per_second) for row in stored.points] == [
        (row["point"], row["wer"]["value"], row["real_time_factor"], row["macs_per_second"]) for row in values["points"]
    ]
    after = read_model(elastic_path).state
    assert all(np.array_equal(after[name], tensor) for name, tensor in before.items())
    status, out, _ = run("info", elastic_path)
    assert status == 0
    assert "Sweep on dev, fp32" in out
    assert "S of 1 2, Q of 1, K of 1 2" in out
    status, out, err = run(*arguments, "--points", "2,1,1 3,1,1", "--json", report)
    assert status == 0
    assert "not trained for the compression point 3,1,1" in err
    assert json.loads(report.read_text())["reference"] == "2,1,1"


def test_sweep_checks_its_arguments_before_it_measures(
    run: Run, elastic_path: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for audio in tmp_path.glob("*.wav"):
        audio.write_bytes(b"")  # measuring would fail with an error about the audio
    arguments = ("sweep", elastic_path, data, "--subset", "dev")
    for more, message in (
        (("--points", "2,1"), "must be S,Q,K"),
        (("--points", "2,1,1 2,1,1"), "each point once"),
        (("--points", "3,1,1", "--strict"), "not trained for"),
        (("--points", "1,1:1:2,1"), "has 3 factors"),
    ):
        status, out, err = run(*arguments, *more)
        assert (status, out, err.count("\n")) == (1, "", 1), more
        assert message in err
    assert run(*arguments, "--repeats", "5")[0] == 2
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    status, _, err = run(*arguments, "--plot", tmp_path / "plot.png")
    assert (status, err.count("\n")) == (1, 1)
    assert "pip install 'matplotlib" in err


def test_the_point_in_the_file_is_the_default(
    run: Run, tiny_model: Callable[..., ModelFile], tmp_path: Path, wav: Callable[..., Path]
) -> None:
    model, path, audio = tiny_model(), tmp_path / "fixed.safetensors", wav("a.wav", 1.5)
    point = CompressionPoint(2)
    header = dataclasses.replace(model.header, space=CompressionSpace(points=(point,)), point=point)
    write_model(path, ModelFile(header, model.state))
    text = Recognizer(TorchEngine(model.build()), model.header).transcribe(audio, point=UNCOMPRESSED)
    status, out, err = run("transcribe", path, audio)
    assert (status, before_the_peak(err)) == (0, "")
    assert out != f"{text}\n"
    assert run("transcribe", path, audio, "--point", "2,1,1")[1] == out
