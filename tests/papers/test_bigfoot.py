"""The table of "Shrinking Bigfoot" on tiny networks: published results, ours, and the checks."""

import functools
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from w2v_compress.data.manifest import Utterance, write_manifest
from w2v_compress.data.units import Units
from w2v_compress.errors import InputError
from w2v_compress.model_file.storage import ModelFile, write_model
from w2v_compress.nn.architecture import ARCHITECTURES
from w2v_compress.papers import energy
from w2v_compress.papers.bigfoot import ENTRIES, check_targets, measure
from w2v_compress.papers.bigfoot_table import COLUMNS, check_table, markdown, notes, table
from w2v_compress.papers.published import BIGFOOT
from w2v_compress.runtime.recognizer import Recognizer

ROOT = Path(__file__).resolve().parents[2]
LAYERS = {"large": 3, "student-12": 2, "student-4": 1, "base": 1}


@pytest.fixture(scope="module", autouse=True)
def tiny_architectures(tiny_model: Callable[..., ModelFile]) -> Iterator[None]:
    """Small architectures in place of the full ones, wide enough for int8 to make the files smaller."""
    with pytest.MonkeyPatch.context() as patch:
        for name, layers in LAYERS.items():
            model = tiny_model(encoder_layers=layers, encoder_embed_dim=64, encoder_ffn_embed_dim=256)
            patch.setitem(ARCHITECTURES, name, model.header.architecture)
        yield


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def report(work: Path) -> dict[str, Any]:
    return measure(work=work, seconds=0.5, repeats=3, seed=4)


@pytest.fixture
def run(run: Callable[..., tuple[int, str, str]]) -> Callable[..., tuple[int, str, str]]:
    """run(argument, ...) runs `w2v-compress tables bigfoot`."""
    return functools.partial(run, "tables", "bigfoot")


def test_published_results_give_the_ratios_that_the_paper_states(report: dict[str, Any]) -> None:
    published = {row["name"]: row["published"] for row in report["models"] if row["published"]}
    assert set(published) == set(BIGFOOT)
    seconds = [published[name]["cpu_seconds"] for name in ("large", "student-4", "large-int8-paper")]
    assert seconds == [4433, 1560, 4079]
    ratios = {name: values["times_faster"] for name, values in published.items()}
    assert ratios["student-4"] == pytest.approx(2.84, abs=0.005)
    assert ratios["large-int8-paper"] == pytest.approx(1.09, abs=0.005)
    assert ratios["student-12"] is None
    sizes = {name: values["times_smaller"] for name, values in published.items()}
    assert sizes["student-4"] == pytest.approx(4.8, abs=0.05)
    assert sizes["large-int8-paper"] == pytest.approx(3.6, abs=0.05)
    assert published["student-12"]["wer"] == (5.93, 6.14)


def test_rows_ratios_and_checks(report: dict[str, Any], work: Path) -> None:
    rows = {row["name"]: row for row in report["models"]}
    assert list(rows) == list(ENTRIES)
    for name, row in rows.items():
        assert row["weights"] == "random, seed 4"
        assert row["wer"] is None
        assert row["times_faster"] == rows["large"]["milliseconds"] / row["milliseconds"] > 0
        if name == "large-bf16":
            assert (row["bytes"], row["times_smaller"]) == (None, None)
            continue
        assert row["bytes"] == (work / f"{name}-seed4.safetensors").stat().st_size
        assert row["times_smaller"] == rows["large"]["bytes"] / row["bytes"]
    assert rows["large"]["times_faster"] == rows["large"]["times_smaller"] == 1
    assert rows["large"]["parameters"] == rows["large-int8-full"]["parameters"] > rows["student-4"]["parameters"]
    assert rows["large"]["times_smaller"] < rows["large-int8-paper"]["times_smaller"]
    assert rows["large-int8-paper"]["times_smaller"] < rows["large-int8-full"]["times_smaller"]
    assert rows["large-int8-full"]["bytes"] > rows["student-4-int8-full"]["bytes"]

    assert report["checks"][0]["measured"].startswith("-99.")  # tiny networks are not within 1% of 1262 MB
    assert not report["checks"][0]["met"]
    names = ("student-4", "large-int8-paper", "large-int8-full")
    expected = [rows[name]["times_smaller"] for name in names] + [rows["student-4"]["times_faster"]]
    expected.append(rows["large-int8-full"]["milliseconds"] / rows["student-4-int8-full"]["milliseconds"])
    expected.append(rows["large-int8-full"]["times_faster"])
    expected.append(rows["large-bf16"]["milliseconds"] / rows["large-int8-full"]["milliseconds"])
    for check, value in zip(report["checks"][1:], expected, strict=True):
        assert 0 <= value - float(check["measured"].removesuffix("x")) <= 0.0101
        assert check["met"] == (value >= float(check["target"].rpartition(" ")[2].removesuffix("x")))
    assert (report["repeats"], report["seconds"], report["batch_size"]) == (3, 0.5, 1)
    assert report["machine"]["threads"] >= 1
    assert "energy" not in report


def test_checks_are_met_from_exactly_their_targets() -> None:
    def rows(factor: float) -> dict[str, dict[str, Any]]:
        sizes = {"student-4": 4.8, "large-int8-paper": 3.55, "large-int8-full": 3.9}
        milliseconds = {"large": 9.0, "large-bf16": 4.0, "large-int8-full": 3.0, "student-4": 3.0}
        milliseconds |= {"student-4-int8-full": 1.0, "large-int8-paper": 5.0}
        return {
            name: {
                "bytes": 1.262e9 * (1 if factor >= 1 else 1.02),
                "times_smaller": factor * sizes.get(name, 1.0),
                "milliseconds": value if name in ("large", "large-bf16") else value / factor,
            }
            for name, value in milliseconds.items()
        }

    assert all(check["met"] for check in check_targets(rows(1.0)))
    missed = [check["target"] for check in check_targets(rows(0.99)) if not check["met"]]
    assert [target.partition(":")[0] for target in missed] == [
        "LARGE within 1% of the paper's 1262 MB",
        "4 layers smaller than LARGE",
        "int8 paper smaller than fp32",
        "int8 full smaller than fp32",
        "4 layers faster than LARGE, both fp32",
    ]


def test_command_measures_the_wer_of_given_models(
    run: Callable[..., tuple[int, str, str]],
    tiny_model: Callable[..., ModelFile],
    wav: Callable[..., Path],
    tmp_path: Path,
) -> None:
    student = tmp_path / "mine.safetensors"
    write_model(student, tiny_model(encoder_layers=1))
    audio = wav("a.wav", 1.0)
    text = Recognizer.load(student, precision="fp32").transcribe(audio)
    write_manifest(tmp_path, "dev", [Utterance(audio, 16_000, f"{text} MORE")], Units.letters())
    outputs = ["--json", tmp_path / "out.json", "--markdown", tmp_path / "out.md"]
    options = ["--seconds", "0.2", "--repeats", "1", "--threads", "1"]
    status, out, err = run("--model", f"student-4={student}", "--data", tmp_path, "--subset", "dev", *options, *outputs)
    assert (status, err) == (0, "")
    report = json.loads((tmp_path / "out.json").read_text())
    rows = {row["name"]: row for row in report["models"]}
    assert rows["student-4"]["wer"]["value"] == 1 / len(f"{text} MORE".split())
    assert rows["student-4"]["weights"] == rows["student-4-int8-full"]["weights"] == str(student)
    assert rows["student-4"]["bytes"] == student.stat().st_size
    assert rows["student-4-int8-full"]["wer"] is not None
    assert rows["large"]["wer"] is rows["base"]["wer"] is None
    assert rows["large"]["random"]
    assert (tmp_path / "out.md").read_text() == markdown(report)
    assert "ours, mine.safetensors" in markdown(report)
    assert "What must hold" in out
    assert "int8 units" in out
    assert sorted(tmp_path.glob("*.safetensors")) == [student]  # the other files were in a temporary folder


def test_published_results_precede_ours(report: dict[str, Any]) -> None:
    columns, lines = table(report)
    assert columns == COLUMNS
    assert ["4 layers, fp32", "paper", "65M", "262", "4.82x", "1560 s", "2.84x", "9.51"] in lines
    assert ["12 layers, fp32", "paper", "-", "-", "-", "-", "-", "5.93 / 6.14"] in lines
    assert [line[1] for line in lines].count("ours") == len(ENTRIES)
    assert [line[:2] for line in lines[:3]] == [["LARGE, fp32", "paper"], ["", "ours"], ["LARGE, bf16", "ours"]]


def test_results_document_shows_the_committed_run() -> None:
    """docs/results.md contains the table of the committed full-size run."""
    report = json.loads((ROOT / "benchmarks" / "results" / "bigfoot.json").read_text(encoding="utf-8"))
    assert markdown(report) in (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert report["repeats"] >= 9
    assert all(check["met"] for check in report["checks"][:4])
    assert all(row["random"] for row in report["models"])


def test_a_stored_run_is_printed(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    stored = ROOT / "benchmarks" / "results" / "bigfoot.json"
    status, out, _ = run(stored, "--markdown", tmp_path / "bigfoot.md")
    assert status == 0
    assert "What must hold" in out
    report = json.loads(stored.read_text(encoding="utf-8"))
    assert (tmp_path / "bigfoot.md").read_text(encoding="utf-8") == markdown(report)
    assert run(stored, "--json", tmp_path / "again.json")[0] == 2  # nothing is measured


def test_a_model_that_matches_no_row_is_an_error(run: Callable[..., tuple[int, str, str]], tiny_path: Path) -> None:
    assert run("--help")[0] == 0
    status, _, err = run("--model", f"giant={tiny_path}")
    assert (status, err.count("\n")) == (1, 1)
    assert "'giant' is not a row" in err
    assert "student-12" in err
    assert run("--model", f"large-bf16={tiny_path}")[0] == 1
    status, _, err = run("--model", f"large-int8-full={tiny_path}")
    assert (status, err.count("\n")) == (1, 1)
    assert f"{tiny_path}: is not quantized" in err
    assert run("--model", tiny_path)[0] == 2
    with pytest.raises(InputError, match="--model"):
        measure(utterances=[Utterance(tiny_path, 1, "A")])


def test_too_little_disk_space_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    with pytest.raises(InputError, match=r"need .* MB, but 0\.00 MB are free; choose another folder with --work"):
        measure(work=tmp_path)
    assert not list(tmp_path.iterdir())


def test_energy_without_codecarbon_names_the_extra(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    status, out, err = run("--energy")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "pip install 'codecarbon" in err


class FakeTracker:
    """codecarbon's tracker on a machine with counters, measuring 0.001 kWh; without counters if `mode` is another."""

    mode = "intel_rapl"

    def __init__(self, **options: Any) -> None:
        assert options["output_methods"] == []
        assert not options["electricitymaps_api_token"]
        self._hardware = [SimpleNamespace(), SimpleNamespace(_mode=self.mode)]

    def start_task(self, name: str) -> None: ...

    def stop_task(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(cpu_energy=0.001)


def test_energy_needs_counters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, work: Path) -> None:
    fake = SimpleNamespace(OfflineEmissionsTracker=FakeTracker)
    monkeypatch.setitem(sys.modules, "codecarbon", fake)  # type: ignore[arg-type]
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    without = measure(work=work, seconds=0.2, repeats=1, seed=4, measure_energy=True)
    assert not without["energy"]["measured"]
    assert "no RAPL energy counters" in without["energy"]["reason"]
    assert not any("joules_per_second" in row for row in without["models"])
    assert any("Energy: not measured: no RAPL" in note for note in notes(without))

    counter = tmp_path / "intel-rapl:0" / "energy_uj"
    counter.parent.mkdir(parents=True)
    counter.write_text("1")
    made = (work / "large-seed4.safetensors").stat().st_mtime_ns
    measured = measure(work=work, seconds=0.5, repeats=2, seed=4, measure_energy=True)
    assert measured["energy"] == {"measured": True, "reason": None}
    assert {row["joules_per_second"] for row in measured["models"]} == {3600.0}  # 0.001 kWh over 2 runs of 0.5 s
    columns, lines = table(measured)
    assert {len(line) for line in lines} == {len(columns)} == {len(COLUMNS) + 1}
    assert {line[-1] for line in lines} == {"-", "3600.00"}
    assert (work / "large-seed4.safetensors").stat().st_mtime_ns == made  # reused

    monkeypatch.setattr(FakeTracker, "mode", "cpu_load")
    with pytest.raises(InputError, match="nothing was measured"):
        energy.processor_joules(lambda: None)
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert "run as root" in str(energy.missing_counters())


def test_report_of_checks_says_yes_or_no() -> None:
    checks = [{"target": "a", "measured": "1.00x", "met": True}, {"target": "b", "measured": "2.00x", "met": False}]
    assert check_table({"checks": checks})[1] == [["a", "1.00x", "yes"], ["b", "2.00x", "no"]]
