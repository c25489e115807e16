"""examples/stochastic: initialization of the systems, comparisons, and committed results."""

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from w2v_compress.errors import InputError
from w2v_compress.papers.stochastic import markdown

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
STOCHASTIC = EXAMPLES / "stochastic"


@pytest.fixture
def example(load_script: Callable[[Path], ModuleType]) -> ModuleType:
    return load_script(STOCHASTIC / "run.py")


@pytest.fixture
def trained(example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, str]]]:
    """The (yaml, settings) of each training of a run with two seeds, in order."""
    found = []

    def fake_train(config: Path, overrides: list[str], folder: Path, updates: int, **_: object) -> Path:
        folder.mkdir(parents=True)
        found.append((config.stem, dict(override.split("=", 1) for override in overrides) | {"folder": str(folder)}))
        return folder / "checkpoint_last.pt"

    monkeypatch.setattr(example, "train", fake_train)
    monkeypatch.setattr(sys.modules["common"], "available_cores", lambda: 1)
    monkeypatch.setattr(example, "export_checkpoint", lambda checkpoint, out: out.touch())
    run = example.Run(tmp_path, example.SIZES["fsdd"], (1, 2))
    example.train_all(run)
    assert all(run.model(system.name, seed).exists() for system in example.SYSTEMS for seed in run.seeds)
    return found


def test_every_system_starts_from_a_training_of_its_own_seed(
    example: ModuleType, trained: list[tuple[str, dict[str, str]]]
) -> None:
    done: set[str] = set()
    for kind, settings in trained:
        if kind == "finetune":
            start = Path(settings["model.w2v_path"]).parent
            assert str(start) in done
            assert start.name.endswith(f"seed-{settings['common.seed']}")
        done.add(settings["folder"])
    assert len(trained) == 2 * (len(example.PRETRAININGS) + len(example.SYSTEMS))


def test_retrofit_differs_from_continued_training_only_in_points_and_upsampling(
    example: ModuleType, trained: list[tuple[str, dict[str, str]]]
) -> None:
    settings = {Path(each["folder"]).name: each for kind, each in trained if kind == "finetune"}
    retrofit, trained_on = settings["finetune-retrofit-seed-1"], settings["finetune-wav2vec-2-0-trained-on-seed-1"]
    assert Path(retrofit["model.w2v_path"]).parent.name == "finetune-wav2vec-2-0-seed-1"
    differing = {name for name in retrofit if retrofit[name] != trained_on.get(name)}
    assert differing == {"folder", "task.point", "+model.learned_upsampling"}


def test_compared_systems_are_measured(example: ModuleType) -> None:
    measured = {(system.name, point) for system in example.SYSTEMS for point in system.points}
    for comparison in example.COMPARISONS:
        assert (comparison.model, comparison.point) in measured
        assert (comparison.baseline, comparison.baseline_point or comparison.point) in measured


def test_settings_are_fields_of_models_and_tasks(example: ModuleType) -> None:
    """Overrides must be in the yaml or have a plus: hydra rejects other names."""
    from w2v_compress.models.compressed_ctc import CompressedCtcConfig
    from w2v_compress.models.sew import SewConfig
    from w2v_compress.tasks.compressed_finetuning import CompressedFinetuningConfig
    from w2v_compress.tasks.compressed_pretraining import CompressedPretrainingConfig

    known = {
        "pretrain": {"model": SewConfig, "task": CompressedPretrainingConfig},
        "finetune": {"model": CompressedCtcConfig, "task": CompressedFinetuningConfig},
    }
    for name, groups in known.items():
        settings = yaml.safe_load((STOCHASTIC / f"{name}.yaml").read_text(encoding="utf-8"))
        for group, config in groups.items():
            assert set(settings[group]) - {"_name"} <= {field.name for field in dataclasses.fields(config)}
    pretrain = yaml.safe_load((STOCHASTIC / "pretrain.yaml").read_text(encoding="utf-8"))
    for override in (*sum(example.PRETRAININGS.values(), ()), *example.TINY):
        group, field = override.split("=")[0].split(".")
        assert group.startswith("+") or field in pretrain[group]


def test_a_folder_with_other_settings_is_rejected(example: ModuleType, tmp_path: Path) -> None:
    run = example.Run(tmp_path, example.SIZES["fsdd"], (1,))
    example.check_settings(run, tmp_path)
    other = dataclasses.replace(run, size=dataclasses.replace(run.size, updates=6))
    with pytest.raises(InputError, match="different settings: updates; choose another --out"):
        example.check_settings(other, tmp_path)


@pytest.mark.parametrize("corpus", sorted(path.name for path in STOCHASTIC.glob("results/*") if path.is_dir()))
def test_documented_results_are_those_of_a_full_run(corpus: str) -> None:
    folder = STOCHASTIC / "results" / corpus
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    table = (folder / "results.md").read_text(encoding="utf-8")
    assert table == markdown(results)
    assert table in (EXAMPLES.parent / "docs" / "results.md").read_text(encoding="utf-8")
    assert "--quick" not in results["command"]
    assert results["subset"] == "dev"
