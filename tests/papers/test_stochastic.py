"""Results for the claims about stochastic models: tables, plot and command."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from w2v_compress.evaluation.wer import ErrorCounts
from w2v_compress.papers.stochastic import Comparison, claim_table, markdown, plot, point_table, summarize


def counts(*errors: int) -> ErrorCounts:
    return ErrorCounts(np.array(errors), np.full(len(errors), 10))


@pytest.fixture
def results() -> dict[str, Any]:
    measured = {
        ("fixed", "1,1,1"): [counts(1, 0), counts(1, 2)],
        ("stochastic", "1,1,1"): [counts(2, 1), counts(2, 3)],
        ("stochastic", "2,1,1"): [counts(4, 4), counts(4, 4)],
    }
    comparisons = [
        Comparison("worse", "stochastic", "fixed", "1,1,1"),
        Comparison("the price", "stochastic", "stochastic", "2,1,1", baseline_point="1,1,1"),
    ]
    costs = [
        {"point": "1,1,1", "macs_per_second": 2e6, "milliseconds_per_second": 4.0},
        {"point": "2,1,1", "macs_per_second": 1e6, "milliseconds_per_second": 2.5},
    ]
    return summarize(measured, comparisons) | {"rate": "WER", "costs": costs}


def test_claim_table(results: dict[str, Any]) -> None:
    _, (first, second) = claim_table(results)
    assert first == ["worse", "stochastic", "fixed", "1,1,1", "10.00", "[10.00, 10.00]", "[10.00, 10.00]"]
    assert second[:5] == ["the price", "stochastic", "stochastic at 1,1,1", "2,1,1", "20.00"]


def test_points_without_a_measurement_are_empty(results: dict[str, Any]) -> None:
    columns, lines = point_table(results)
    assert columns == ["point", "M MACs per s", "ms per s", "WER, fixed", "WER, stochastic"]
    assert lines == [["1,1,1", "2.0", "4.0", "10.00", "20.00"], ["2,1,1", "1.0", "2.5", "-", "40.00"]]


def test_markdown_has_both_tables(results: dict[str, Any]) -> None:
    text = re.sub(" +", " ", markdown(results))
    assert "| the price | stochastic | stochastic at 1,1,1 | 2,1,1 |" in text
    assert "| 2,1,1 | 1.0 | 2.5 | - | 40.00 |" in text


def test_plot(results: dict[str, Any], tmp_path: Path) -> None:
    plot(results, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_command(run: Callable[..., tuple[int, str, str]], results: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps(results))
    status, out, _ = run("tables", "stochastic", tmp_path / "results.json", "--markdown", tmp_path / "tables.md")
    assert status == 0
    assert "the price" in out
    assert (tmp_path / "tables.md").read_text() == markdown(results)


def test_committed_results_fit_80_columns(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    folder = Path(__file__).resolve().parents[2] / "examples" / "stochastic" / "results"
    for path in folder.glob("*/results.json"):
        status, out, _ = run("tables", "stochastic", path)
        assert status == 0
        assert "…" not in out
        assert max(map(len, out.splitlines())) <= 80
        assert "difference of" in out


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read"),
        ("[", "is not JSON"),
        ('{"rate": "WER", "models": []}', "has no `comparisons`"),
        ("[1]", "must be a JSON object"),
    ],
)
def test_other_files_are_a_one_line_error(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path, content: str | None, reason: str
) -> None:
    if content is not None:
        (tmp_path / "other.json").write_text(content)
    status, _, err = run("tables", "stochastic", tmp_path / "other.json")
    assert status == 1
    assert reason in err
    assert len(err.strip().splitlines()) == 1
