"""examples/stochastic: trainings of the arms, their configurations, comparisons, data, and committed results."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from w2v_compress.data.manifest import Utterance, read_manifest, write_manifest
from w2v_compress.data.units import Units
from w2v_compress.errors import InputError
from w2v_compress.evaluation.report import markdown_tables, read_tables
from w2v_compress.evaluation.wer import ErrorCounts
from w2v_compress.model_file.storage import ModelFile, read_model, write_model
from w2v_compress.papers.stochastic import markdown

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
STOCHASTIC = EXAMPLES / "stochastic"
SCRIPTS = ("digits", "sentences")


@pytest.fixture(params=SCRIPTS)
def example(request: pytest.FixtureRequest, load_script: Callable[[Path], ModuleType]) -> ModuleType:
    return load_script(STOCHASTIC / f"{request.param}.py")


@pytest.fixture
def trained(example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """The settings of each training of a run with two seeds, in order; trials have one error in a hundred letters."""
    experiment = sys.modules["experiment"]
    found: list[dict[str, str]] = []

    def fake_train(config: Path, overrides: list[str], folder: Path, updates: int, **_: object) -> Path:
        settings = dict(override.partition("=")[::2] for override in overrides)
        found.append(settings | {"name": folder.name, "updates": str(updates)})
        return folder / "checkpoint_last.pt"

    monkeypatch.setattr(experiment, "train", fake_train)
    monkeypatch.setattr(sys.modules["common"], "available_cores", lambda: 1)
    monkeypatch.setattr(experiment, "export_checkpoint", lambda checkpoint, out, ema: out.touch())
    rates = iter(range(1, 10**6))
    monkeypatch.setattr(experiment, "trial_error", lambda run, kind, rate: next(rates) / 1e6)
    run = experiment.Run(example.EXPERIMENT, tmp_path, (1, 2))
    trials = experiment.try_rates(run)
    experiment.train_arms(run, example.ARMS, {kind: experiment.best_rate(errors) for kind, errors in trials.items()})
    assert all(run.model(arm.name, seed).exists() for arm in example.ARMS for seed in run.seeds)
    return found


def test_arms_continue_models_of_their_own_seed(example: ModuleType, trained: list[dict[str, str]]) -> None:
    done: set[str] = set()
    for settings in trained:
        if start := settings.get("++model.init_checkpoint"):
            assert Path(start).stem in done
            assert Path(start).stem.endswith(f"seed-{settings['common.seed']}")
        done.add(settings["name"])
    starts = {start for arm in example.ARMS if (start := example.EXPERIMENT.start(arm))}
    trials = sum(len(example.EXPERIMENT.rates_of(kind)) for kind in example.KINDS) + len(starts)
    assert len(trained) == trials + 2 * len(example.ARMS)
    continued = [arm for arm in example.ARMS if example.KINDS[arm.kind].continues]
    assert sum("++model.init_checkpoint" in settings for settings in trained[trials:]) == 2 * len(continued) > 0


def test_pinned_and_sampled_arms_differ_only_in_their_points(example: ModuleType) -> None:
    for name, kind in example.KINDS.items():
        if name.startswith(("pinned", "sampled", "retrofit")):
            assert {setting.lstrip("+").split("=")[0] for setting in kind.settings} <= {
                "task.point",
                "task.query_pool",
                "task.key_value_pool",
            }


def test_compared_arms_are_measured(example: ModuleType) -> None:
    measured = {(arm.name, point) for arm in example.ARMS for point in example.KINDS[arm.kind].points}
    for comparison in example.COMPARISONS:
        assert (comparison.model, comparison.point) in measured
        assert (comparison.baseline, comparison.point) in measured
    assert example.EXPERIMENT.timed in example.ARMS
    for arm in example.ARMS:
        assert (start := example.EXPERIMENT.start(arm)) is None or start in example.ARMS


def test_settings_fit_the_recipe(
    example: ModuleType, compose_recipe: Callable[[Path, list[str]], Any], tmp_path: Path
) -> None:
    """hydra refuses settings that the recipe does not have, and additions of those that it has."""
    from w2v_compress.nn.architecture import Architecture

    required = ["common.user_dir=x", "checkpoint.save_dir=x", "task.data=x", "optimization.max_update=4"]
    required += ["optimization.lr=[0.001]", f"++model.init_checkpoint={tmp_path / 'x.pt'}"]
    for kind in example.KINDS.values():
        start = ["++model.w2v_args=null"] if kind.continues else []
        cfg = compose_recipe(example.EXPERIMENT.recipe, [*required, *kind.settings, *start])
        assert cfg.task._name == "compressed_finetuning"
        if cfg.model.get("w2v_args"):
            Architecture.from_fairseq(OmegaConf.to_container(cfg.model.w2v_args.model), num_units=32)


def test_a_folder_with_other_settings_is_rejected(example: ModuleType, tmp_path: Path) -> None:
    experiment = sys.modules["experiment"]
    (tmp_path / "settings.json").write_text('{"corpus": "another"}')
    with pytest.raises(InputError, match="different settings: corpus"):
        experiment.run_all(experiment.Run(example.EXPERIMENT, tmp_path, (1,)), lambda: None, {"corpus": "this"}, "")


def test_digits_use_each_recording_once_in_held_out_strings(
    load_script: Callable[[Path], ModuleType],
    wav: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    digits = load_script(STOCHASTIC / "digits.py")
    monkeypatch.setattr(digits, "STRINGS", 20)
    (tmp_path / "corpus" / "recordings").mkdir(parents=True)
    for index in range(50):
        wav(f"corpus/recordings/7_theo_{index}.wav", 0.3, seed=index)
    for divisor, held_out in ((1, (15, 5)), (500, (2, 1))):  # a quick run evaluates on a tenth
        run = sys.modules["experiment"].Run(digits.EXPERIMENT, tmp_path / f"out-{divisor}", (1,), divisor)
        digits.prepare_data(tmp_path / "corpus", run)
        strings = {subset: read_manifest(run.data, subset) for subset in ("train", "valid", "dev")}
        words = {subset: sum(len(each.text.split()) for each in utterances) for subset, utterances in strings.items()}
        assert (words["dev"], words["valid"], len(strings["train"])) == (*held_out, 20)


def test_models_are_stored_with_half_the_bits(
    load_script: Callable[[Path], ModuleType], tiny_model: Callable[..., ModelFile], tmp_path: Path
) -> None:
    script = load_script(STOCHASTIC / "store_models.py")
    (tmp_path / "results.json").write_text('{"seeds": [7, 8]}')
    for arm in script.ARMS:
        write_model(script.Run(script.EXPERIMENT, tmp_path, ()).model(arm.name, 7), tiny_model())
    script.store(tmp_path)
    stored = sorted((tmp_path / "stored").iterdir())
    assert [path.name for path in stored] == sorted(path.name for path in tmp_path.glob("*.safetensors"))
    for path in stored:
        halved, model = read_model(path), read_model(tmp_path / path.name)
        assert {each.dtype for each in halved.state.values()} == {torch.float16}
        assert all(torch.equal(each, model.state[name].half()) for name, each in halved.state.items())


@pytest.fixture
def manifests(wav: Callable[..., Path], tmp_path: Path) -> None:
    """Two utterances in each subset of the folder `data`."""
    utterances = [Utterance(wav(f"{text}.wav", 1.0, seed=len(text)), 16_000, text) for text in ("ONE", "SEVEN")]
    for subset in ("train", "valid", "dev"):
        write_manifest(tmp_path / "data", subset, utterances, Units.letters())


def test_pooling_compares_searched_points_with_uniform_ones_of_as_much_compute(
    load_script: Callable[[Path], ModuleType],
    tiny_model: Callable[..., ModelFile],
    manifests: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pooling = load_script(STOCHASTIC / "pooling.py")
    experiment = sys.modules["experiment"]
    model = tiny_model(encoder_layers=2)
    seeds, settings = [3, 4], []

    def fake_train(config: Path, overrides: list[str], folder: Path, updates: int, **_: object) -> Path:
        settings.append((updates, overrides))
        return folder

    monkeypatch.setattr(experiment, "train", fake_train)
    monkeypatch.setattr(experiment, "export_checkpoint", lambda checkpoint, out, ema: write_model(out, model))
    trials = {"sampled over S, Q, K": {"0.001": 0.5, "0.002": 0.25}}
    (tmp_path / "results.json").write_text(json.dumps({"seeds": seeds, "learning_rates": trials}))
    (tmp_path / "settings.json").write_text('{"divisor": 1, "overrides": []}')
    for seed in seeds:
        write_model(tmp_path / f"sampled-over-s-q-k-4-000-updates-seed-{seed}.safetensors", model)

    pooling.run_all(tmp_path)
    assert [updates for updates, _ in settings] == [4000, 4000]
    for seed, (_, overrides) in zip(seeds, settings, strict=True):
        assert {f"common.seed={seed}", "optimization.lr=[0.002]", "+task.layer_wise=true"} <= set(overrides)
    results = json.loads((tmp_path / "pooling.json").read_text(encoding="utf-8"))
    assert list(results["points"]) == ["1,1,2", "1,2,1", "1,2,2", "2,1,2", "2,2,1", "2,2,2"]
    search = json.loads(next(tmp_path.glob("*seed-3.search-2.json")).read_text(encoding="utf-8"))
    cost = {each["point"]: each["macs_per_second"] for each in search["steps"] + search["uniform"]}
    loss = {each["point"]: each["loss"] for each in search["steps"]}
    for uniform in ("2,1,2", "2,2,1", "2,2,2"):
        chosen = results["points"][uniform]["searched"][0]
        assert cost[chosen] <= cost[uniform]
        assert loss[chosen] == min(loss[point] for point in loss if cost[point] <= cost[uniform])
    assert results["points"]["2,2,2"]["wer"].keys() == {"uniform", "trained at uniform points", "searched"}
    table = (tmp_path / "pooling.md").read_text(encoding="utf-8")
    assert table == markdown_tables(pooling.tables(results)) == markdown_tables(read_tables(results))
    assert table.count("\n") == 2 + 2 * 4 + 1 + 2 + 6


def test_pretraining_is_compared_with_random_weights_at_the_best_rates(
    load_script: Callable[[Path], ModuleType],
    compose_recipe: Callable[[Path, list[str]], Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = load_script(STOCHASTIC / "pretraining.py")
    trained: list[tuple[str, int]] = []

    def fake_train(config: Path, overrides: list[str], folder: Path, updates: int, **_: object) -> Path:
        compose_recipe(config, ["common.user_dir=x", "checkpoint.save_dir=x", "optimization.max_update=4", *overrides])
        trained.append((folder.name, updates))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "log.txt").write_text('{"train_code_perplexity": "9.5"}\n[x] - {"train_code_perplexity": "12.5"}\n')
        return folder / "checkpoint_last.pt"

    def counted(model: Path, data: Path, subset: str, point: str, *_: object) -> ErrorCounts:
        assert (subset, point) == ("valid", "1,1,1")
        errors = [3, 0] if "pinned" in model.name else [1, 1] if "diversity-1-rate-0-004" in model.name else [4, 4]
        return ErrorCounts(np.array(errors), np.array([10, 10]))

    monkeypatch.setattr(script, "train", fake_train)
    monkeypatch.setattr(sys.modules["experiment"], "train", fake_train)
    monkeypatch.setattr(sys.modules["experiment"], "export_checkpoint", lambda checkpoint, out, ema: out.touch())
    monkeypatch.setattr(sys.modules["experiment"], "count_errors", counted)
    monkeypatch.setattr(sys.modules["common"], "available_cores", lambda: 1)
    monkeypatch.setattr(script, "count_errors", counted)
    rates = {"pinned to 1,1,1": {"0.004": 0.2, "0.008": 0.1}, "another": {"0.5": 0.2}}
    (tmp_path / "results.json").write_text(json.dumps({"seeds": [2], "learning_rates": rates}))
    (tmp_path / "settings.json").write_text('{"divisor": 1, "overrides": []}')
    script.run_all(tmp_path)
    script.run_all(tmp_path)  # finished steps are skipped
    assert len(trained) == 3 + 3 * 2
    assert all(updates == (2000 if name.startswith("pretraining") else 1000) for name, updates in trained)
    results = json.loads((tmp_path / "pretraining.json").read_text(encoding="utf-8"))
    scratch, _, better, _ = results["models"]
    assert (scratch["wer"], scratch["difference"]["value"]) == (0.15, 0)
    assert (better["wer"], better["rate"], better["code_perplexity"]) == (0.1, 0.004, 12.5)
    assert better["difference"]["value"] == pytest.approx(-0.05)
    assert (tmp_path / "pretraining.md").read_text(encoding="utf-8").count("\n") == 2 + 4


@pytest.mark.parametrize("script", ["pooling", "elastic_training", "pretraining"])
def test_what_goes_on_needs_the_results_before(
    load_script: Callable[[Path], ModuleType], tmp_path: Path, script: str
) -> None:
    with pytest.raises(InputError, match=r"results\.json"):
        load_script(STOCHASTIC / f"{script}.py").run_all(tmp_path)


def test_variants_of_elastic_training_fit_the_recipe(
    load_script: Callable[[Path], ModuleType], compose_recipe: Callable[[Path, list[str]], Any], tmp_path: Path
) -> None:
    script = load_script(STOCHASTIC / "elastic_training.py")
    plain = compose_recipe(script.EXPERIMENT.recipe, [])
    for kind in script.variants(tmp_path).values():
        changed = compose_recipe(script.EXPERIMENT.recipe, list(kind.settings))
        assert changed != plain
        assert bool(changed.ema.store_ema) == kind.ema


def test_variants_of_elastic_training_compute_as_much_as_the_baseline(
    load_script: Callable[[Path], ModuleType], tiny_model: Callable[..., ModelFile], tmp_path: Path
) -> None:
    script = load_script(STOCHASTIC / "elastic_training.py")
    architecture = tiny_model(encoder_layers=2).header.architecture
    updates = {
        name: script.updates_of_equal_compute(kind, architecture, epoch=100)
        for name, kind in script.variants(tmp_path).items()
    }
    assert script.updates_of_equal_compute(script.UNIFORM, architecture, 100) == 1500
    assert updates["centred positions"] == updates["moving average of weights"] == 1500
    assert updates["larger points more often"] < 1500 < updates["smaller points more often"]
    assert updates["full point first"] < 1500 < updates["most squeezed first"]
    assert 1300 < updates["distilled from the recognizer"] < 1500
    assert abs(updates["two points in a batch"] - 1500) < 50
    # The largest, the smallest and one sampled point in each update.
    assert updates["sandwich"] == updates["sandwich, in-place distillation"]
    assert 300 < updates["sandwich"] < 600


def test_variants_of_elastic_training_are_compared_with_uniform_sampling(
    load_script: Callable[[Path], ModuleType],
    tiny_model: Callable[..., ModelFile],
    manifests: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = load_script(STOCHASTIC / "elastic_training.py")
    experiment = sys.modules["experiment"]
    model, trained = tiny_model(encoder_layers=2), []
    two = {name: script.variants(tmp_path)[name] for name in ("sandwich", "centred positions")}
    monkeypatch.setattr(script, "variants", lambda out: two)
    monkeypatch.setattr(script, "POINTS", ("1,1,1", "4,2,2"))
    monkeypatch.setattr(experiment, "train", lambda config, overrides, *_, **__: trained.append(overrides))
    monkeypatch.setattr(experiment, "export_checkpoint", lambda checkpoint, out, ema: write_model(out, model))
    (tmp_path / "results.json").write_text(
        json.dumps({"seeds": [3, 4], "learning_rates": {"retrofit over S, Q, K": {"0.1": 0.5, "0.3": 0.25}}})
    )
    (tmp_path / "settings.json").write_text('{"divisor": 1, "overrides": ["model.init_checkpoint=x.pt"]}')
    for seed in (3, 4):
        write_model(tmp_path / f"retrofit-over-s-q-k-1-500-updates-seed-{seed}.safetensors", model)

    script.run_all(tmp_path)
    assert len(trained) == 2 * len(two)
    for overrides in trained:
        assert {"optimization.lr=[0.3]", "model.init_checkpoint=x.pt"} <= set(overrides)
    results = json.loads((tmp_path / "elastic_training.json").read_text(encoding="utf-8"))
    for subset in ("valid", "dev"):
        for compared in results[subset].values():
            assert len(compared) == 1 + len(two)
            assert all(each["difference"]["over_strings"]["value"] == 0 for each in compared.values())  # the same model
        at_points = [results[subset][point]["sandwich"]["rate"]["by_seed"][0] for point in ("1,1,1", "4,2,2")]
        assert results[subset]["all"]["sandwich"]["rate"]["by_seed"][0] == pytest.approx(sum(at_points) / 2)
    assert (tmp_path / "elastic_training.md").read_text(encoding="utf-8") == markdown_tables(script.tables(results))


@pytest.mark.parametrize("corpus", sorted(path.name for path in STOCHASTIC.glob("results/*") if path.is_dir()))
def test_documented_results_are_those_of_a_full_run(corpus: str) -> None:
    folder = STOCHASTIC / "results" / corpus
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    table = (folder / "results.md").read_text(encoding="utf-8")
    assert table == markdown(results)
    assert table in (EXAMPLES.parent / "docs" / "results.md").read_text(encoding="utf-8")
    assert "--quick" not in results["command"]
    assert results["subset"] == "dev"
