"""`benchmark` with stub runtimes: selection of runtimes, report, tables and plot."""

import contextlib
import dataclasses
import importlib.util
import json
import re
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from w2v_compress import InputError
from w2v_compress.benchmark import measurement, peers
from w2v_compress.benchmark import plan as plans
from w2v_compress.benchmark import report as benchmark_tables
from w2v_compress.benchmark import run as module
from w2v_compress.benchmark.audio import write_audio
from w2v_compress.benchmark.peers import OURS, PEERS, Runtime
from w2v_compress.benchmark.plan import CalibrationData, Plan, select_runtimes
from w2v_compress.benchmark.run import benchmark
from w2v_compress.data.audio import read_audio
from w2v_compress.extras import install_command
from w2v_compress.model_file.storage import quantize_file
from w2v_compress.model_file.tensor_file import read_header
from w2v_compress.nn.architecture import ARCHITECTURES
from w2v_compress.nn.compression import CompressionPoint

NETWORK = """
import json
from pathlib import Path

def convert(setting):
    (setting.folder / ("NAME-" + setting.point)).touch()
    CONVERT

def load(setting):
    assert (setting.folder / ("NAME-" + setting.point)).exists()
    def run(waveforms):
        RUN
        return [np.outer(np.arange(1, 2 + len(waveform) // 320), [1, 2, 4]) * SCALE for waveform in waveforms]
    return run
"""
SHORT: dict[str, Any] = {"seconds": (0.1, 0.2), "batch": (0.1, 0.3)}


@pytest.fixture
def runtimes(write_module: Callable[[str, str], str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """runtimes(name={...}) replaces runtimes by stubs, with lines of code for `scale`, `run` and `convert` by name."""
    monkeypatch.setattr(measurement, "PAUSE", 0)

    def replace(**changes: dict[str, str]) -> None:
        def stub(runtime: Runtime) -> Runtime:
            change = changes.get(runtime.name.replace("-", "_"), {})
            source = NETWORK.replace("NAME", runtime.name)
            for word, default in (("SCALE", "1"), ("RUN", "pass"), ("CONVERT", "pass")):
                source = source.replace(word, change.get(word.lower(), default))
            module = write_module(f"stub_{runtime.name.replace('-', '_')}", source)
            return dataclasses.replace(runtime, module=module, packages=())

        ours = tuple(stub(runtime) for runtime in OURS if runtime.name in ("ours-fp32", "ours-int8"))
        stubs = {
            name: stub(PEERS[name])
            for name in ("transformers-fp32", "torch-ao-int8", "onnxruntime-fp32", "openvino-fp32", "fairseq-fp32")
        }
        monkeypatch.setattr(peers, "OURS", ours)
        monkeypatch.setattr(peers, "EXACT", ours[0])
        monkeypatch.setattr(peers, "PEERS", stubs)

    return replace


def names(group: dict[str, Any]) -> list[str]:
    return [row["runtime"] for row in group["runtimes"]]


def test_each_point_has_its_runtimes_and_the_baseline(runtimes: Callable[..., None], tiny_path: Path, tmp_path: Path):
    runtimes(ours_int8={"scale": "1.5"})
    shares: list[float] = []
    points = (CompressionPoint(), CompressionPoint(2))
    plan = Plan(points=points, **SHORT)
    report = benchmark(plan, model=tiny_path, progress=lambda done, total: shares.append(done / total))
    first, second = report["groups"]
    assert names(first) == [
        *("ours-fp32", "ours-int8"),
        *("transformers-fp32", "torch-ao-int8", "onnxruntime-fp32", "openvino-fp32", "fairseq-fp32"),
    ]
    assert names(second) == ["transformers-fp32", "ours-fp32", "ours-int8", "onnxruntime-fp32"]
    assert [row["point"] for row in second["runtimes"]] == ["1,1,1"] + ["2,1,1"] * 3
    assert report["reference"] == {"runtime": "transformers-fp32", "network": str(tiny_path), "point": "1,1,1"}
    for group in report["groups"]:
        for row in group["runtimes"]:
            assert row["error"] is None
            assert [case["case"] for case in row["cases"]] == ["0.1 s", "0.2 s", "batch of 2"]
            assert all(len(case["times"]) == 9 for case in row["cases"])
            expected = 0 if row["runtime"] != "ours-int8" else 0.5
            if row["point"] == group["point"]:
                assert [case["errors"]["relative"] for case in row["cases"]] == pytest.approx([expected] * 3)
            else:
                assert [case["errors"] for case in row["cases"]] == [None] * 3
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)
    assert report["machine"]["threads"] == 1
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_a_peer_that_fails_is_reported_and_the_others_are_measured(runtimes: Callable[..., None], tiny_path: Path):
    reject = "from w2v_compress import InputError; raise InputError('no such network')"
    runtimes(transformers_fp32={"convert": reject}, openvino_fp32={"run": "import os; os._exit(7)"})
    warnings: list[str] = []
    report = benchmark(Plan(**SHORT), model=tiny_path, warn=warnings.append)
    assert warnings == [
        f"skipped transformers-fp32: {tiny_path} at 1,1,1: no such network",
        "openvino-fp32 at 1,1,1 failed: its process ended with status 7",
    ]
    assert [each["runtime"] for each in report["left_out"]] == ["transformers-fp32"]
    (group,) = report["groups"]
    assert names(group) == [
        *("ours-fp32", "ours-int8", "torch-ao-int8", "onnxruntime-fp32", "openvino-fp32", "fairseq-fp32")
    ]
    assert {row["runtime"]: row["error"] for row in group["runtimes"] if row["error"]} == {
        "openvino-fp32": "its process ended with status 7"
    }
    assert report["reference"]["runtime"] == "ours-fp32"
    assert group["runtimes"][0]["cases"][0]["times_faster"] == 1
    tables = benchmark_tables.tables(report)
    assert tables[0][2][4] == ["openvino-fp32", "-", "-", "-", "-", "-"]


def test_audio_is_normalized_for_runtimes_that_do_not(runtimes: Callable[..., None], tiny_path: Path):
    """The tiny model requires normalization: transformers gets normalized audio, and our runtime the plain noise."""
    check = "assert {} == all(abs(waveform.std() - 1) < 0.1 for waveform in waveforms)"
    runtimes(ours_fp32={"run": check.format(False)}, transformers_fp32={"run": check.format(True)})
    report = benchmark(Plan(**SHORT), model=tiny_path, peers=["transformers-fp32"])
    assert [row["error"] for row in report["groups"][0]["runtimes"]] == [None] * 3


def test_times_against_another_architecture(
    runtimes: Callable[..., None], tiny_path: Path, monkeypatch: pytest.MonkeyPatch
):
    runtimes()
    monkeypatch.setitem(ARCHITECTURES, "teacher", read_header(tiny_path).architecture)
    monkeypatch.setattr(module, "in_new_process", lambda function, *arguments: function(*arguments))
    report = benchmark(Plan(**SHORT), model=tiny_path, against="teacher", peers=["transformers-fp32"])
    assert report["reference"] == {"runtime": "transformers-fp32", "network": "teacher", "point": "1,1,1"}
    (group,) = report["groups"]
    assert [benchmark_tables.label(report, group, row) for row in group["runtimes"]] == [
        "transformers-fp32 of teacher", "ours-fp32", "ours-int8", "transformers-fp32"
    ]  # fmt: skip
    for row in group["runtimes"]:
        for case, other in zip(row["cases"], group["runtimes"][0]["cases"], strict=True):
            assert case["times_faster"] == pytest.approx(other["milliseconds"] / case["milliseconds"])
    with pytest.raises(InputError, match="transformers-fp32, which must be one of the peers"):
        benchmark(Plan(**SHORT), model=tiny_path, against="teacher", peers=["fairseq-fp32"])


def test_random_weights_of_an_architecture(runtimes: Callable[..., None], tiny_path: Path, monkeypatch):
    runtimes()
    monkeypatch.setitem(ARCHITECTURES, "small", read_header(tiny_path).architecture)
    monkeypatch.setattr(module, "in_new_process", lambda function, *arguments: function(*arguments))
    report = benchmark(Plan(**SHORT), architecture="small", peers=[])
    assert (report["network"]["title"], report["network"]["weights"]) == ("small", "random")
    assert report["network"]["architecture"]["encoder_layers"] == 2
    with pytest.raises(InputError, match="'huge' is not known; it must be one of base"):
        benchmark(Plan(**SHORT), architecture="huge", peers=[])


def test_peers_that_are_not_installed(monkeypatch: pytest.MonkeyPatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name in ("openvino", "torchao") else found(name)
    )
    selected, skipped = select_runtimes(["all"])
    assert {each.runtime for each in skipped} >= {"ours-int8", "openvino-fp32", "openvino-int8", "torchao-int8"}
    assert {each.runtime for each in skipped}.isdisjoint(runtime.name for runtime in selected)
    reason = f"needs torchao, which is not installed: {install_command('peers')}"
    assert reason in [each.reason for each in skipped]
    with pytest.raises(InputError, match=re.escape(f"--peers: torchao-int8 {reason}")):
        select_runtimes(["fairseq-fp32", "torchao-int8"])
    assert "ours-int8" in {each.runtime for each in select_runtimes(["fairseq-fp32"])[1]}


@pytest.mark.parametrize("units", [True, False])
def test_bf16_needs_bf16_units(units: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(plans, "half_precision", lambda _device: torch.bfloat16 if units else torch.float32)
    selected, skipped = select_runtimes(["transformers-bf16", "fairseq-fp32"])
    ours = ["ours-fp32", "ours-int8", "ours-torch-fp32", "ours-torch-int8", "fairseq-fp32"]
    others = ["ours-bf16", "transformers-bf16"]
    assert sorted(runtime.name for runtime in selected) == sorted(ours + others * units)
    assert [each.runtime for each in skipped] == others * (not units)


def test_invalid_arguments(tiny_path: Path, tmp_path: Path):
    with pytest.raises(InputError, match="'onnx' is not known; it must be all, or some of transformers-fp32, "):
        select_runtimes(["onnx"])
    for values, message in (
        ({"repeats": 8}, "`repeats` is 8; it must be at least 9"),
        ({"threads": 0}, "`threads` is 0; it must be at least 1"),
        ({"seconds": (2.0, 0.0)}, r"`seconds` is \[2.0, 0.0\]; it must list lengths from 0.1 to 3600"),
        ({"batch": (float("nan"),)}, "`batch` is"),
        ({"busy": -1}, "`busy` is -1; it must be at least 0"),
        ({"seconds": (), "batch": ()}, "`seconds` and `batch` must not both be empty"),
        ({"points": (CompressionPoint(), CompressionPoint())}, "`points` must list each point once"),
    ):
        with pytest.raises(InputError, match=message):
            Plan(**values)
    for utterances in (0, 301):
        with pytest.raises(InputError, match=f"`utterances` is {utterances}; it must be from 1 to 300"):
            CalibrationData(folder=tmp_path, utterances=utterances)
    with pytest.raises(InputError, match="give either `model` or `architecture`"):
        benchmark(Plan())
    quantize_file(tiny_path, tmp_path / "int8.safetensors")
    with pytest.raises(InputError, match=r"int8.safetensors: is quantized; give the floating-point model"):
        benchmark(Plan(), model=tmp_path / "int8.safetensors", peers=[])
    with pytest.raises(InputError, match="`query_pool` has 3 factors, but the network has 2 layers"):
        benchmark(Plan(points=(CompressionPoint(1, (1, 2, 1)),)), model=tiny_path, peers=[])


def test_audio_is_seeded_noise_or_a_repeated_recording(tmp_path: Path, wav: Callable[..., Path]):
    def read(seed: int = 0, recording: Path | None = None) -> list[np.ndarray]:
        audio = write_audio(tmp_path, Plan(**SHORT, seed=seed), recording)
        assert list(audio.plain.cases) == ["0.1 s", "0.2 s", "batch of 2"]
        normalized = [
            np.load(path) for path in (*chain(*audio.normalized.cases.values()), *audio.normalized.calibration)
        ]
        assert all(abs(each.mean()) < 1e-5 and abs(each.std() - 1) < 0.1 for each in normalized)
        return [np.load(path) for path in chain(*audio.plain.cases.values())]

    assert [len(each) for each in read()] == [1600, 3200, 1600, 4800]
    first, again, other = (np.concatenate(read(seed)) for seed in (3, 3, 4))
    assert (first == again).all()
    assert not (first == other).all()
    recording = wav("speech.wav", 0.25)
    samples = read_audio(recording)
    np.testing.assert_array_equal(np.concatenate(read(recording=recording)), np.tile(samples, 3)[: 16 * 700])


@pytest.mark.parametrize("from_recording", [False, True])
def test_int8_is_calibrated_on_other_pieces_of_the_audio(
    from_recording: bool, tmp_path: Path, wav: Callable[..., Path]
):
    recording = wav("speech.wav", 110) if from_recording else None
    audio = write_audio(tmp_path, Plan(**SHORT), recording)
    pieces = [np.load(path) for path in audio.plain.calibration]
    assert [len(pieces), len(pieces[0]), len(pieces[-1])] == [20, 32_000, 128_000]
    assert audio.calibration == {"audio": str(recording or "noise"), "utterances": 20, "seconds": 100.0}
    timed = np.concatenate([np.load(path) for path in chain(*audio.plain.cases.values())])
    if recording:
        np.testing.assert_array_equal(np.concatenate([timed, *pieces]), read_audio(recording)[: 16_000 * 100 + 11_200])
    else:
        assert np.isin(timed, np.concatenate(pieces)).mean() < 0.1  # equal by chance
        assert np.concatenate(pieces).std() == pytest.approx(0.1 / np.sqrt(2), rel=0.02)


def test_int8_is_calibrated_on_utterances_of_a_manifest(tmp_path: Path, data: Path):
    def calibration(utterances: int, seed: int = 0) -> list[np.ndarray]:
        speech = CalibrationData(folder=data, subset="dev", utterances=utterances)
        audio = write_audio(tmp_path, Plan(**SHORT, seed=seed, calibration=speech), None)
        assert audio.calibration["audio"] == f"{data}, subset dev"
        assert audio.calibration["utterances"] == min(utterances, 2)
        return [np.load(path) for path in audio.plain.calibration]

    utterances = [read_audio(tmp_path / f"{number}.wav") for number in range(2)]
    first, second = sorted(calibration(5), key=len)
    np.testing.assert_array_equal(first, utterances[0])
    np.testing.assert_array_equal(second, utterances[1])
    drawn = {len(calibration(1, seed)[0]) for seed in range(8)}
    assert drawn == {16_000, 32_000}  # depends on the seed
    assert len(calibration(1, 3)[0]) == len(calibration(1, 3)[0])
    with pytest.raises(InputError, match="there is no subset 'train'; there is dev"):
        write_audio(tmp_path, Plan(**SHORT, calibration=CalibrationData(folder=data)), None)


def test_calibration_and_busy_processes_are_reported(
    runtimes: Callable[..., None], tiny_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Conversions get the calibration audio of the plan; the times are measured beside the busy processes."""
    started: list[int] = []

    @contextlib.contextmanager
    def busy_processes(count: int) -> Iterator[None]:
        started.append(count)
        yield

    monkeypatch.setattr(module, "busy_processes", busy_processes)
    check = "assert {} == len(setting.calibration) == sum(path.exists() for path in setting.calibration)"
    runtimes(ours_int8={"convert": check.format(20)}, torch_ao_int8={"convert": check.format(0)})
    report = benchmark(Plan(**SHORT, busy=2), model=tiny_path, peers=["torch-ao-int8"])
    assert report["left_out"] == []
    assert report["calibration"] == {"audio": "noise", "utterances": 20, "seconds": 100.0}
    assert {row["runtime"]: row["calibration_utterances"] for row in report["groups"][0]["runtimes"]} == {
        "ours-fp32": None, "ours-int8": 20, "torch-ao-int8": None
    }  # fmt: skip
    assert started == [report["busy"]] == [2]
    notes = benchmark_tables.notes(report)
    assert "Calibrated on 20 utterances (100 s) of noise: ours-int8." in notes
    assert "Not calibrated, with the scales of activations computed in each run: torch-ao-int8." in notes
    assert "Measured beside competing processes that compute without pause: 2." in notes


def test_the_command(run, runtimes: Callable[..., None], tiny_path: Path, tmp_path: Path, data: Path):
    runtimes(fairseq_fp32={"run": "raise ValueError('out of luck')"})
    options = ("--peers", "transformers-fp32,fairseq-fp32", "--seconds", "0.1", "--batch", "0.1,0.2", "--threads", 1)
    options += ("--calibrate", data, "--subset", "dev", "--utterances", 1, "--busy", 1)
    files = ("--json", tmp_path / "report.json", "--plot", tmp_path / "times.png")
    status, out, err = run("benchmark", tiny_path, *options, *files)
    assert status == 1
    assert err == "w2v-compress: fairseq-fp32 at 1,1,1 failed: ValueError: out of luck\n"
    assert "medians of 9 interleaved runs" in out
    report = json.loads((tmp_path / "report.json").read_text())
    assert names(report["groups"][0]) == ["ours-fp32", "ours-int8", "transformers-fp32", "fairseq-fp32"]
    assert {"w2v-compress", "numpy"} <= report["versions"].keys()
    assert (report["busy"], report["calibration"]["audio"]) == (1, f"{data}, subset dev")
    assert f"of {data}, subset dev: ours-int8." in out
    assert (tmp_path / "times.png").read_bytes().startswith(b"\x89PNG")
    title, columns, lines = benchmark_tables.tables(report)[0]
    assert title.startswith(f"{tiny_path} at 1,1,1: ms on ")
    assert columns == ["runtime", "0.1 s", "batch of 2", "start", "peak memory"]
    assert [re.sub("[0-9.]+", "N", cell) for cell in lines[0]] == ["ours-fpN", *["N (Nx)"] * 2, "N s", "N MB"]
    written, drawn = tmp_path / "tables.md", tmp_path / "again.png"
    status, again, _ = run("tables", "benchmark", tmp_path / "report.json", "--markdown", written, "--plot", drawn)
    assert (status, again) == (0, out)
    assert f"| {' | '.join(lines[0])} |\n" in re.sub(" +", " ", written.read_text())
    assert drawn.read_bytes().startswith(b"\x89PNG")
    (tmp_path / "other.json").write_text('{"network": {}}')
    status, _, err = run("tables", "benchmark", tmp_path / "other.json")
    assert (status, err.count("\n")) == (1, 1)
    assert "has no `reference`; it must be what `benchmark --json` wrote" in err


def test_invalid_options_of_the_command(run, tiny_path: Path):
    for arguments, status, message in (
        (["benchmark"], 2, "give either MODEL or --architecture"),
        (["benchmark", tiny_path, "--seconds", "2;10"], 2, "must be seconds, separated by commas"),
        (["benchmark", tiny_path, "--peers", "faster"], 1, "--peers: 'faster' is not known"),
        (["benchmark", tiny_path, "--busy", "-1"], 2, "greater than or equal to 0"),
        (["benchmark", tiny_path, "--calibrate", "none"], 1, "none: no such folder"),
        (["benchmark", tiny_path, "--calibrate", "none", "--utterances", "0"], 1, "`utterances` is 0"),
        (["benchmark", tiny_path, "--points", "1,1"], 1, "compression point '1,1' cannot be read"),
        (["benchmark", tiny_path.parent / "none.safetensors"], 1, "no such file"),
    ):
        found, _, err = run(*arguments)
        assert found == status
        assert message in " ".join(err.replace("│", " ").split())
