"""benchmarks/check_results.py: the draw, the comparison, and the rates of the stored models."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from w2v_compress.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def script(load_script: Callable[[Path], ModuleType]) -> ModuleType:
    return load_script(ROOT / "benchmarks" / "check_results.py")


def test_a_share_is_drawn_at_random(script: ModuleType) -> None:
    checks = list(range(100))
    drawn = script.choose(checks, 0.1, 1)
    assert len(drawn) == 10
    assert drawn == sorted(drawn)
    assert drawn == script.choose(checks, 0.1, 1) != script.choose(checks, 0.1, 2)
    assert script.choose(checks[:4], 0.1, 1) == sorted(script.choose(checks[:4], 0.1, 1))
    assert len(script.choose(checks[:4], 0.1, 1)) == script.LEAST
    assert script.choose(checks, 1, 1) == checks


@pytest.mark.parametrize(("changed", "agree"), [(0.0, True), (0.02, False)])
def test_rates_of_stored_models_are_compared(
    changed: float,
    agree: bool,
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    checks = script.find_checks(script.Corpora(), tmp_path)
    assert [check.name for check in checks[:3]] == [
        "teacher, prompts, test",
        "teacher with bigram, prompts, test",
        "prompts-teacher at 1,1,1, prompts, dev",
    ]
    assert len(checks) == 9
    first = checks[2]
    recorded = {name: value + changed for name, value in first.recorded.items()}
    monkeypatch.setattr(script, "find_checks", lambda corpora, work: [dataclasses.replace(first, recorded=recorded)])
    assert script.run(0.1, 1, script.Corpora()) == agree
    assert ("NO" in capsys.readouterr().out) != agree


def test_models_of_the_digits_are_checked_at_all_their_points(
    script: ModuleType, wav: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script.digits, "STRINGS", 3)
    (tmp_path / "corpus" / "recordings").mkdir(parents=True)
    for index in range(50):
        wav(f"corpus/recordings/7_theo_{index}.wav", 0.3, seed=index)
    prompts = script.find_checks(script.Corpora(), tmp_path / "prompts")
    checks = script.find_checks(script.Corpora(fsdd=tmp_path / "corpus"), tmp_path / "all")[len(prompts) :]
    points = {check.name.partition(" at ")[0]: set[str]() for check in checks}
    for check in checks:
        points[check.name.partition(" at ")[0]].add(check.point)
    assert {name: len(each) for name, each in points.items()} == {
        "pinned-to-1-1-1-2-000-updates-seed-2": 1,
        "pinned-to-4-1-1-2-000-updates-seed-2": 1,
        "sampled-over-s-2-000-updates-seed-2": 4,
        "sampled-over-s-q-k-4-000-updates-seed-2": 16,
    }
    assert {check.dataset for check in checks} == {"digits, dev"}
    assert sum(len(each.text.split()) for each in checks[0].utterances) == 15
    rates = checks[-1].recompute()
    assert checks[-1].recorded.keys() <= rates.keys()


def test_speech_without_recorded_rates_is_rejected(script: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "unknown"
    folder.mkdir()
    (folder / "utterances.csv").write_text("path,text,split\n", encoding="utf-8")
    with pytest.raises(InputError, match="--speech unknown: nothing is recorded for it; recorded are prompts, common"):
        script.find_checks(script.Corpora([folder]), tmp_path / "work")
