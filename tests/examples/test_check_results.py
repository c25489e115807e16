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
    checks = script.find_checks([], tmp_path)
    assert [check.name for check in checks[:3]] == [
        "teacher, prompts, test",
        "teacher with bigram, prompts, test",
        "prompts-teacher at 1,1,1, prompts, dev",
    ]
    assert len(checks) == 9
    first = checks[2]
    recorded = {name: value + changed for name, value in first.recorded.items()}
    monkeypatch.setattr(script, "find_checks", lambda speech, work: [dataclasses.replace(first, recorded=recorded)])
    assert script.run(0.1, 1, []) == agree
    assert ("NO" in capsys.readouterr().out) != agree


def test_speech_without_recorded_rates_is_rejected(script: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "unknown"
    folder.mkdir()
    (folder / "utterances.csv").write_text("path,text,split\n", encoding="utf-8")
    with pytest.raises(InputError, match="--speech unknown: nothing is recorded for it; recorded are prompts, common"):
        script.find_checks([folder], tmp_path / "work")
