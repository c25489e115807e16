"""Tables, plot, web page and model cards of examples/quickstart."""

import csv
import dataclasses
import html
import json
import os
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import w2v_compress
from w2v_compress.data.manifest import Utterance
from w2v_compress.data.prepare import prepare
from w2v_compress.evaluation.wer import ErrorCounts, Interval, character_errors
from w2v_compress.interop.fairseq_checkpoint import export_checkpoint
from w2v_compress.model_file.storage import ModelFile, write_model
from w2v_compress.model_file.sweep import Sweep, SweptPoint
from w2v_compress.model_file.tensor_file import read_header
from w2v_compress.nn.compression import CompressionPoint, CompressionSpace
from w2v_compress.papers.seeds import combined_interval
from w2v_compress.quantization.parts import is_calibrated

QUICKSTART = Path(__file__).resolve().parents[2] / "examples" / "quickstart"


@pytest.fixture
def script(load_script: Callable[[Path], ModuleType]) -> Callable[[str], ModuleType]:
    """script(name) imports a script of the quickstart."""
    return lambda name: load_script(QUICKSTART / f"{name}.py")


def rate(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.05, "high": value + 0.05}


def row(name: str, point: str | None = None, milliseconds: float = 2.0) -> dict[str, Any]:
    return {
        "model": name if point is None else f"{name}, {point}",
        "file": name,
        "point": point,
        "parameters": 2_090_000,
        "bytes": 2_180_000,
        "precision": "int8" if "int8" in name else "f32",
        "milliseconds_per_second": milliseconds,
        "wer": rate(0.4),
        "wer_bigram": rate(0.14),
        "cer": rate(0.12),
    }


ELASTIC = "elastic student int8"


@pytest.fixture
def results() -> dict[str, Any]:
    rows = [row("teacher"), row("teacher int8"), row(ELASTIC, "1,1,1", 3.0), row(ELASTIC, "2,1,1", 1.5)]
    transcripts = [
        {"point": "1,1,1", "text": "PRESS <ONE>", "milliseconds": 12.34},
        {"point": "2,1,1", "text": "PRES ONE", "milliseconds": 6.0},
    ]
    return {
        "test_utterances": 80,
        "test_words": 550,
        "machine": {"processor": "Intel & Co", "threads": 2},
        "models": rows,
        "wer_differences": {"teacher int8 minus teacher": rate(0.0)},
        "transcripts": [{"file": "a.flac", "text": "PRESS ONE", "transcripts": transcripts}],
    }


class Resources(HTMLParser):
    """Collects what a page would load, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_needs_no_other_file_and_shows_all_results(
    script: Callable[[str], ModuleType], results: dict[str, Any], tmp_path: Path
) -> None:
    figures = script("figures")
    figures.plot(results["models"], tmp_path / "results.png")
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")
    figures.write_page(results, tmp_path / "results.png", tmp_path / "results.html")
    page = Resources()
    page.feed((tmp_path / "results.html").read_text(encoding="utf-8"))
    assert [resource[:22] for resource in page.loaded] == ["data:image/png;base64,"]
    for each in results["models"]:
        assert all(cell in page.text for cell in figures.cells(each))
    for shown in ("PRESS <ONE>", "PRES ONE", "12.3 ms", "Intel & Co", "teacher int8 minus teacher"):
        assert shown in page.text
    assert html.escape("PRESS <ONE>") in (tmp_path / "results.html").read_text(encoding="utf-8")


def test_the_cheapest_useful_point_is_within_the_limit_on_dev(
    script: Callable[[str], ModuleType],
    tiny_model: Callable[..., ModelFile],
    wav: Callable[..., Path],
    tmp_path: Path,
) -> None:
    run = script("run")
    points = [CompressionPoint(squeeze) for squeeze in (1, 2, 3)]
    swept = [
        SweptPoint(point=point, wer=wer, real_time_factor=time, macs_per_second=1.0)
        for point, wer, time in zip(points, (0.2, 0.24, 0.4), (0.3, 0.2, 0.1), strict=True)
    ]
    model = tiny_model()
    header = dataclasses.replace(
        model.header,
        space=CompressionSpace(points=tuple(points)),
        sweep=Sweep(subset="dev", precision="fp32", machine={}, points=tuple(swept)),
    )
    write_model(tmp_path / "model.safetensors", dataclasses.replace(model, header=header))
    seconds = (0.5, 0.9, 0.6, 0.8, 0.7)
    utterances = [
        Utterance(wav(f"{index}.wav", each, seed=index), round(16000 * each), f"TEXT {index}")
        for index, each in enumerate(seconds)
    ]
    prompts = run.transcribe_prompts(tmp_path / "model.safetensors", utterances)
    assert [prompt["text"] for prompt in prompts] == ["TEXT 1", "TEXT 3", "TEXT 4"]
    for prompt in prompts:
        assert [each["point"] for each in prompt["transcripts"]] == ["1,1,1", "2,1,1"]
        assert all(each["milliseconds"] > 0 for each in prompt["transcripts"])


def test_seeds_compare_paired_runs(script: Callable[[str], ModuleType]) -> None:
    seeds = script("seeds")
    generator = np.random.default_rng(1)
    lengths = generator.integers(2, 9, 40)
    counts = {
        name: [ErrorCounts(generator.binomial(lengths, 0.05 * (index + 1)), lengths) for _ in seeds.SEEDS]
        for index, name in enumerate(seeds.SYSTEMS)
    }
    times = {name: 1.5 * index for index, name in enumerate(seeds.SYSTEMS)}
    results = seeds.summarize(counts, times)
    assert {name: each["milliseconds_per_second"] for name, each in results["systems"].items()} == times
    gain = results["differences"]["student minus student, CTC alone"]
    expected = [
        one.rate - other.rate for one, other in zip(counts["student"], counts["student, CTC alone"], strict=True)
    ]
    assert gain["by_seed"] == expected
    assert gain["over_seeds"]["low"] < np.mean(expected) < gain["over_seeds"]["high"]
    assert seeds.markdown(results).count("\n") == 2 + len(seeds.SYSTEMS) + len(seeds.DIFFERENCES)
    assert sorted(system for systems in seeds.CURVES.values() for system in systems) == sorted(seeds.SYSTEMS)


def test_the_ablation_compares_each_loss_with_ctc_alone_at_equal_updates(script: Callable[[str], ModuleType]) -> None:
    ablation = script("ablation")
    generator = np.random.default_rng(1)
    lengths = generator.integers(2, 9, 40)
    counts = {
        name: [ErrorCounts(generator.binomial(lengths, 0.3), lengths) for _ in ablation.SEEDS]
        for name in ablation.SYSTEMS
    }
    systems = ablation.summarize(counts)["systems"]
    for updates in ("800", "3,000"):
        alone, recipe = (f"{loss}, {updates} updates" for loss in (ablation.ALONE, ablation.RECIPE))
        assert systems[alone]["difference"] is None
        expected = [one.rate - other.rate for one, other in zip(counts[recipe], counts[alone], strict=True)]
        assert systems[recipe]["difference"]["by_seed"] == expected
        combined = combined_interval(systems[recipe]["difference"])
        for source in ("over_seeds", "over_strings"):
            assert combined["low"] <= systems[recipe]["difference"][source]["low"]
    (table,) = ablation.tables({"systems": systems})
    assert [line[0] for line in table[2]] == list(ablation.SYSTEMS)


def test_settings_of_students_and_trials_fit_their_recipes(
    script: Callable[[str], ModuleType], compose_recipe: Callable[[Path, list[str]], Any], tmp_path: Path
) -> None:
    """hydra refuses settings that the recipe does not have, and additions of those that it has."""
    seeds, compare, ablation = script("seeds"), script("compare_elastic"), script("ablation")
    required = [*script("run").paths(tmp_path), "common.user_dir=x", "checkpoint.save_dir=x"]
    settings = {name: (student.config, student.overrides) for name, student in seeds.SEEDED.items()}
    settings |= {name: (student.config, student.overrides) for name, student in ablation.SYSTEMS.items()}
    settings |= {name: ("elastic.yaml", chosen) for name, (_, chosen) in compare.TRIALS.items()}
    composed = {
        name: compose_recipe(QUICKSTART / recipe, [*required, *chosen]) for name, (recipe, chosen) in settings.items()
    }
    assert composed[seeds.FOUR].model.layers == composed["elastic student"].model.layers
    assert composed["student, CTC alone"].criterion.kl_weight == 0
    assert composed["sandwich"].task.sandwich == 1
    losses = {
        name: (terms.kl_weight, terms.temperature, terms.ctc_weight, terms.get("hidden_weight", 0))
        for name in ablation.SYSTEMS
        for terms in [composed[name].criterion]
    }
    assert losses["CTC alone, 3,000 updates"] == (0, 2, 1, 0)
    assert losses["posteriors (T = 1): the paper's loss, 800 updates"] == (1, 1, 0, 0)
    assert losses["CTC and hidden states, 800 updates"] == (0, 2, 1, 1)


def test_trials_with_several_seeds_are_means(
    script: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare = script("compare_elastic")
    trained: list[tuple[str, int]] = []
    monkeypatch.setattr(compare.Training, "run", lambda self, data, progress: trained.append((self.name, self.seed)))

    def counted(model: Path, data: Path, subset: str, point: str, unit: str) -> ErrorCounts:
        errors = trained[-1][1] + compare.POINTS.index(point)
        return ErrorCounts(np.array([errors]), np.array([20]))

    monkeypatch.setattr(compare, "count_errors", counted)
    monkeypatch.setattr(sys.modules["common"], "available_cores", lambda: 1)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dev.tsv").touch()
    compare.run(["muon", "sandwich"], [1], tmp_path)
    compare.run(["muon"], [1, 4], tmp_path)
    assert trained == [("muon", 1), ("sandwich", 1), ("muon", 4)]
    trials = json.loads((tmp_path / "elastic-trials" / "trials.json").read_text(encoding="utf-8"))["trials"]
    muon, sandwich = trials
    assert muon["characters"]["2,1,1"] == pytest.approx((2 + 5) / 2 / 20)
    assert {seed: rates["words"]["1,1,1"] for seed, rates in muon["seeds"].items()} == {"1": 0.05, "4": 0.2}
    assert sandwich["characters"]["2,1,1"] == 0.1
    table = (tmp_path / "elastic-trials" / "trials.md").read_text(encoding="utf-8")
    assert "| muon, 2 seeds |" in table
    assert "| sandwich " in table


def test_the_readme_shows_the_recorded_results_over_seeds(script: Callable[[str], ModuleType]) -> None:
    recorded = json.loads((QUICKSTART / "results" / "seeds.json").read_text(encoding="utf-8"))
    table = script("seeds").markdown(recorded)
    assert (QUICKSTART / "results" / "seeds.md").read_text(encoding="utf-8") == table
    assert table in (QUICKSTART / "README.md").read_text(encoding="utf-8")


def test_curves_over_seeds_are_plotted(script: Callable[[str], ModuleType], tmp_path: Path) -> None:
    system = {"milliseconds_per_second": 2.0, "wer": {"over_strings": rate(0.4)}}
    script("figures").plot_curves({"students": [system], "elastic": [system, system]}, tmp_path / "seeds.png")
    assert (tmp_path / "seeds.png").read_bytes().startswith(b"\x89PNG")


def test_dev_utterances_are_grouped_by_speaker(
    script: Callable[[str], ModuleType], wav: Callable[..., Path], tmp_path: Path
) -> None:
    rows = [
        ("a", "train", "f", "30", "NOT SHOWN"),
        ("b", "dev", "f", "30", "ONE"),
        ("c", "dev", "m", "7", "TWO"),
        ("d", "dev", "", "", "three"),
    ]
    folder = tmp_path / "corpus"
    folder.mkdir()
    with open(folder / "utterances.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "split", "gender", "age", "text"])
        writer.writerows([[wav(f"{name}.wav", 0.5), *values] for name, *values in rows])
    dev = script("ship_models").read_dev(folder)
    assert {name: [dev.utterances[index].text for index in chosen] for name, chosen in dev.groups.items()} == {
        "corpus": ["ONE", "TWO", "THREE"],
        "corpus, female": ["ONE"],
        "corpus, adults": ["ONE"],
        "corpus, male": ["TWO"],
        "corpus, children": ["TWO"],
    }
    assert dev.utterances[0].samples == 8000


def test_the_ledger_shows_the_recorded_trials(script: Callable[[str], ModuleType]) -> None:
    ledger = json.loads((QUICKSTART / "teacher" / "ledger.json").read_text(encoding="utf-8"))
    compare = script("train_teacher/compare")
    assert (QUICKSTART / "teacher" / "ledger.md").read_text(encoding="utf-8") == compare.markdown(ledger["trials"])
    assert {row["trial"] for row in ledger["trials"]} <= set(compare.TRIALS)


def test_the_card_has_the_rates_of_the_trials_of_the_last_stage(script: Callable[[str], ModuleType]) -> None:
    ledger = json.loads((QUICKSTART / "teacher" / "ledger_last.json").read_text(encoding="utf-8"))
    start, once, often = ledger["trials"]
    trial = "muon, subset last"
    assert start["trial"] == "none"
    assert once["trial"].startswith(trial)
    assert often["trial"].startswith(trial)
    updates, settings = script("train_teacher/compare").TRIALS[trial]
    assert all((row["updates"], row["settings"]) == (updates, settings) for row in (once, often))
    card = " ".join((QUICKSTART / "teacher" / "README.md").read_text(encoding="utf-8").split())
    for dev in ("dev_commonvoice", "dev_speechocean762"):
        assert f"from {100 * once['cer'][dev]:.1f} to {100 * often['cer'][dev]:.1f}%" in card
    assert f"{100 * often['cer']['dev']:.1f} instead of {100 * once['cer']['dev']:.1f}%" in card


MODELS = QUICKSTART.parent / "models"


def test_shipped_models_are_small_and_described() -> None:
    files = sorted(MODELS.glob("*.safetensors"))
    assert [path.stem for path in files] == ["prompts-elastic", "prompts-teacher"]
    assert sum(path.stat().st_size for path in files) <= 10e6
    recorded = json.loads((MODELS / "models.json").read_text(encoding="utf-8"))["models"]
    for path in files:
        header, card = read_header(path), path.with_suffix(".md").read_text(encoding="utf-8")
        assert is_calibrated(header.quantization)
        assert [str(point) for point in header.space.all_points()] == list(recorded[path.stem]["dev"])
        for groups in recorded[path.stem]["dev"].values():
            for name, each in groups.items():
                assert f"| {name} " in card
                assert Interval(**each["wer"]).percent() in card
    sweep = read_header(MODELS / "prompts-elastic.safetensors").sweep
    assert sweep is not None
    assert [swept.point for swept in sweep.points] == read_header(
        MODELS / "prompts-elastic.safetensors"
    ).space.all_points()


def test_the_model_cards_show_the_recorded_figures(script: Callable[[str], ModuleType]) -> None:
    recorded = json.loads((MODELS / "models.json").read_text(encoding="utf-8"))
    for name, figures in recorded["models"].items():
        model = MODELS / f"{name}.safetensors"
        card = script("ship_models").card(name, model, figures, recorded["machine"])
        assert card == model.with_suffix(".md").read_text(encoding="utf-8")


def test_both_students_of_the_shipped_models_train_on_a_mix(tmp_path: Path) -> None:
    """Two updates on 60 prompts; the elastic student has the points of elastic.yaml, the separate one has none."""
    with open(QUICKSTART / "corpus" / "utterances.csv", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "train"][:64]
    folder = tmp_path / "corpus"
    folder.mkdir()
    with open(folder / "utterances.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "text", "split"])
        for index, row in enumerate(rows):
            writer.writerow([QUICKSTART / "corpus" / row["path"], row["text"], "last" if index < 60 else "dev"])
    prepare("csv", folder, tmp_path / "mix")
    script = QUICKSTART / "train_elastic.sh"
    environment = {**os.environ, "UPDATES": "2", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    running = [
        subprocess.Popen(["bash", script, tmp_path, *name], env=environment, stdout=subprocess.DEVNULL)
        for name in ([], ["separate"])
    ]
    assert [each.wait() for each in running] == [0, 0]
    models = {}
    for name in ("elastic", "separate"):
        export_checkpoint(tmp_path / name / "checkpoint_last.pt", models.setdefault(name, tmp_path / f"{name}.st"))
    headers = {name: read_header(model) for name, model in models.items()}
    assert len(headers["elastic"].space.all_points()) == 6
    assert headers["separate"].space.all_points() == [CompressionPoint()]
    assert headers["elastic"].architecture.encoder_layers == headers["separate"].architecture.encoder_layers == 4

    unknown = subprocess.run(["bash", script, tmp_path, "other"], env=environment, capture_output=True, text=True)
    assert unknown.returncode == 1
    assert unknown.stderr == "train_elastic.sh: the student is other; it must be elastic or separate\n"


def test_a_shipped_model_recognizes_prompts_at_every_point() -> None:
    """A loose limit that only shows that the file is a working recognizer; its card has the error rates."""
    model = w2v_compress.load("prompts-elastic")
    with open(QUICKSTART / "corpus" / "utterances.csv", encoding="utf-8", newline="") as file:
        dev = [row for row in csv.DictReader(file) if row["split"] == "dev"][:12]
    for point in model.header.space.all_points():
        texts = model.transcribe([QUICKSTART / "corpus" / row["path"] for row in dev], point=point)
        assert character_errors([row["text"] for row in dev], texts).rate < 0.5


@pytest.mark.parametrize("teacher", ["", "_second_teacher", "_first_teacher"])
def test_the_trials_of_the_elastic_student_are_the_recorded_ones(
    teacher: str, script: Callable[[str], ModuleType]
) -> None:
    name = f"elastic_trials{teacher}.json"
    rows = json.loads((QUICKSTART / "results" / name).read_text(encoding="utf-8"))["trials"]
    compare = script("compare_elastic")
    assert compare.markdown(rows) in (QUICKSTART / "README.md").read_text(encoding="utf-8")
    assert {row["trial"] for row in rows} <= set(compare.TRIALS)
