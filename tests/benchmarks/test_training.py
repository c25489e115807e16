"""The training benchmark on a small network: stock fairseq and ours under fairseq's trainer."""

import json
import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "training.py"


def test_training(
    small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    report = tmp_path / "report.json"
    arguments = ["--architecture", small, "--points", "1,1,1 2,1,1 1,1,2", "--batch", "2", "--seconds", "0.6"]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments, "--repeats", "3", "--json", str(report)])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    assert "updates per s" in capfd.readouterr().out
    values = json.loads(report.read_text())
    rows = values["updates"]
    everywhere = ["1,1,1", "2,1,1", "1,1,2", "sampled"]
    assert [(row["kind"], row["model"], row["point"]) for row in rows] == [
        ("pre-training", "wav2vec2", "1,1,1"),
        *(("pre-training", "stochastic_sew", point) for point in everywhere),
        *(("pre-training", "pooled_transformer", point) for point in ("1,1,1", "1,1,2", "sampled")),
        ("fine-tuning", "wav2vec_ctc", "1,1,1"),
        *(("fine-tuning", "compressed_ctc", point) for point in everywhere),
    ]
    for row in rows:
        stock = next(other for other in rows if other["kind"] == row["kind"])
        assert len(row["times"]) == 3
        expected = sum(row["times"]) / 3 if row["point"] == "sampled" else sorted(row["times"])[1]
        assert row["milliseconds"] == pytest.approx(expected)
        assert row["times_faster"] == pytest.approx(stock["milliseconds"] / row["milliseconds"])
        assert row["audio_per_second"] == pytest.approx(1.2 * row["updates_per_second"])
        assert row["peak_bytes"] is None
    assert (values["device"], values["precision"]) == ("cpu", "fp32")
