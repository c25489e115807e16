"""examples/fsdd: separate splits, initialization of the chains, and summary of the results."""

import dataclasses
import itertools
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
import yaml

from w2v_compress.criterions.ctc_distillation import CtcDistillationConfig
from w2v_compress.data.manifest import read_manifest
from w2v_compress.errors import InputError
from w2v_compress.evaluation.wer import ErrorCounts
from w2v_compress.models.student_ctc import StudentCtcConfig

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FSDD = EXAMPLES / "fsdd"
RESULTS = FSDD / "results"


@pytest.fixture
def example(load_script) -> ModuleType:
    return load_script(FSDD / "run.py")


@pytest.fixture
def figures(example) -> ModuleType:
    return sys.modules["figures"]


@pytest.fixture
def run(example, tmp_path):
    return example.Run(tmp_path / "out", example.QUICK, (1, 2))


def counts(errors: list[int], words: int = 10) -> ErrorCounts:
    return ErrorCounts(np.array(errors), np.full(len(errors), words))


def test_strings_of_a_split_are_joined_from_its_own_recordings(example, run, tmp_path):
    """Each recording has its own level, which identifies it in the audio of a string."""
    levels = {}
    (tmp_path / "fsdd" / "recordings").mkdir(parents=True)
    for number, (speaker, index) in enumerate((s, i) for s in ("ann", "bob") for i in (0, 4, 5, 9, 10, 44, 45, 49)):
        levels[speaker, index] = 0.05 * (number + 1)
        path = tmp_path / "fsdd" / "recordings" / f"3_{speaker}_{index}.wav"
        soundfile.write(path, levels[speaker, index] * np.resize([1, -1], 4800), 16000, subtype="PCM_16")
    example.prepare_strings(tmp_path / "fsdd", run)
    every = {"train": (10, 44), "valid": (45, 49), "dev": (5, 9)}
    for folder, lengths, allowed in (
        ("data", range(3, 8), every),
        ("short", range(1, 3), every),
        ("few", range(3, 8), {"train": (10,)}),
    ):
        assert {path.stem for path in (run.out / folder).glob("*.tsv")} - {"rejected"} == set(allowed)
        for split, indices in allowed.items():
            for string in read_manifest(run.out / folder, split):
                samples = soundfile.read(string.path)[0]
                found = {round(float(level), 2) for level in np.abs(samples) if level > 0.01}
                speakers = [
                    {level for (who, i), level in levels.items() if who == speaker and i in indices}
                    for speaker in ("ann", "bob")
                ]
                assert any(found <= {round(level, 2) for level in own} for own in speakers)
                # The last string of a held-out split has the recordings that are left.
                assert len(string.text.split()) in (lengths if split == "train" else range(1, lengths.stop))
    assert example.count_recordings(run, "valid") == 4


def test_students_start_from_the_previous_model_and_use_the_teacher(example, run, monkeypatch):
    run.out.mkdir()
    trained = []

    def fake_train(config, overrides, folder, updates, **_):
        trained.append(dict(override.split("=", 1) for override in overrides))
        return folder

    monkeypatch.setattr(example, "train", fake_train)
    monkeypatch.setattr(example, "export_checkpoint", lambda checkpoint, out: out.touch())
    example.train_students(run)
    assert len(trained) == len(example.RECIPES) * len(run.seeds) * 2
    assert {settings["criterion.teacher_checkpoint"] for settings in trained} == {str(run.teacher)}
    starts = {(s["model.encoder_layers"], s["common.seed"], s["model.init_checkpoint"]) for s in trained}
    for recipe in example.RECIPES:
        for seed in run.seeds:
            assert ("12", str(seed), str(run.teacher)) in starts
            assert ("4", str(seed), str(run.student(recipe, 12, seed))) in starts
    assert all(path.exists() for paths in run.models().values() for path in paths if path != run.teacher)

    trained.clear()
    run.student("plus", 4, 2).unlink()
    example.train_students(run)
    assert [settings["model.init_checkpoint"] for settings in trained] == [str(run.student("plus", 12, 2))]


def test_baselines_differ_from_their_recipes_only_in_the_loss(example):
    baselines = {name: recipe.baselines[0] for name, recipe in example.RECIPES.items() if recipe.baselines}
    compared = itertools.chain(*(recipe.baselines for recipe in example.RECIPES.values()))
    assert set(baselines) | set(compared) == set(example.RECIPES)
    student = yaml.safe_load((FSDD / "student.yaml").read_text(encoding="utf-8"))
    for recipe, baseline in baselines.items():
        assert example.RECIPES[recipe].data == example.RECIPES[baseline].data
        settings = {
            name: dict(override.split("=", 1) for override in example.RECIPES[name].overrides)
            for name in (recipe, baseline)
        }
        without_loss = [
            {field: value for field, value in overrides.items() if not field.startswith("criterion.")}
            for overrides in settings.values()
        ]
        assert without_loss[0] == without_loss[1]
        loss = student["criterion"] | {
            field.removeprefix("criterion."): yaml.safe_load(value) for field, value in settings[baseline].items()
        }
        from_teacher = [loss.get(f"{term}_weight", 0) for term in ("kl", "cosine", "hidden")]
        assert from_teacher == [0, 0, 0]
        assert loss["ctc_weight"] > 0


def test_settings_are_fields_of_model_and_criterion(example):
    """Overrides of the recipes must be in student.yaml too: hydra rejects other names."""
    known = {"criterion": CtcDistillationConfig, "model": StudentCtcConfig}
    student = yaml.safe_load((FSDD / "student.yaml").read_text(encoding="utf-8"))
    for group, config in known.items():
        assert set(student[group]) - {"_name"} <= {field.name for field in dataclasses.fields(config)}
    for override in itertools.chain(*(recipe.overrides for recipe in example.RECIPES.values())):
        group, field = override.split("=")[0].split(".")
        assert field in student[group]


def test_a_folder_with_other_settings_is_rejected(example, run, tmp_path):
    run.out.mkdir()
    example.check_settings(run, tmp_path)
    example.check_settings(dataclasses.replace(run, seeds=(1, 2, 3)), tmp_path)
    other = dataclasses.replace(run, size=dataclasses.replace(run.size, student_updates={12: 6, 4: 6}))
    with pytest.raises(InputError, match="different settings: student_updates; choose another --out"):
        example.check_settings(other, tmp_path)


def test_seconds_of_interrupted_steps_are_added(example, run):
    run.out.mkdir()
    with pytest.raises(InputError), example.timed(run.out, "teacher"):
        raise InputError("interrupted")
    with example.timed(run.out, "teacher"), example.timed(run.out, "students"):
        pass
    assert set(json.loads((run.out / "seconds.json").read_text(encoding="utf-8"))) == {"teacher", "students"}


def test_summary_names_recipe_and_baseline(figures):
    distilled, baseline = [counts([1, 1]), counts([1, 3])], [counts([3, 3]), counts([3, 5])]
    summary = figures.summarize(
        {
            ("teacher", 24, "fp32"): [counts([1, 0])],
            ("teacher", 24, "int8 full"): [counts([1, 1])],
            ("paper", 4, "fp32"): distilled,
            ("no teacher", 4, "fp32"): baseline,
        },
        {"paper": ("no teacher",)},
    )
    (gain,) = summary["distilled_minus_baseline"]
    assert (gain["recipe"], gain["baseline"], gain["layers"]) == ("paper", "no teacher", 4)
    assert gain["wer"]["over_strings"]["value"] == pytest.approx(-0.2)
    (cost,) = summary["int8_minus_fp32"]
    assert cost["wer"]["by_seed"] == pytest.approx([0.05])
    assert cost["wer"]["over_seeds"] is None
    table = figures.markdown(summary | {"costs": []})
    assert "| 4 | paper | no teacher | -20.00 | [-20.00, -20.00] | [-20.00, -20.00] |" in re.sub(" +", " ", table)


def test_documented_results_are_those_of_a_full_run(figures):
    results = json.loads((RESULTS / "results.json").read_text(encoding="utf-8"))
    table = (RESULTS / "results.md").read_text(encoding="utf-8")
    assert table == figures.markdown(results)
    assert table in (EXAMPLES.parent / "docs" / "results.md").read_text(encoding="utf-8")
    assert results["command"] == "python examples/fsdd/run.py FSDD_FOLDER --seeds 1 2 3 --subset dev"
    assert results["subset"] == "dev"
