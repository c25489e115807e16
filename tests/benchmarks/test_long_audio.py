"""The long audio benchmark on a small model and three minutes of noise."""

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "long_audio.py"


def test_long_audio(
    tiny_path: Path,
    wav: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder, report = tmp_path / "recordings", tmp_path / "report.json"
    (folder / "deep").mkdir(parents=True)
    for index in range(3):
        wav(f"recordings/deep/{index}.wav", 3.3, seed=index)
    arguments = [folder, "--model", tiny_path, "--hours", "0.05", "--compared-seconds", "40", "--precision", "fp32"]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments), "--json", str(report)])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    out = capfd.readouterr().out
    values = json.loads(report.read_text())
    assert [file["audio_seconds"] for file in values["files"]] == [60, 180]
    peaks = [file["peak_memory_bytes"] for file in values["files"]]
    assert values["growth_bytes"] == peaks[1] - peaks[0] < 100e6
    assert all(0 < file["real_time_factor"] < 1 and file["characters"] > 100 for file in values["files"])
    seams = values["seams"]
    assert (seams["windows"], seams["frames"], seams["frames_away_from_seams"]) == (2, 1_999, 1_798)
    assert 0.9 < seams["equal_best_label"] <= 1
    assert 0.9 < seams["equal_best_label_away_from_seams"] <= 1
    assert "growth: " in out
    assert str(tmp_path) not in report.read_text()
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(tmp_path / "absent")])
    with pytest.raises(SystemExit, match="contains no recordings"):
        runpy.run_path(str(SCRIPT), run_name="__main__")
