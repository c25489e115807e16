"""Results for the claims about stochastic models: tables, plot and command."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from w2v_compress.evaluation.report import markdown_tables, to_json
from w2v_compress.evaluation.wer import ErrorCounts
from w2v_compress.files import write_json
from w2v_compress.papers.seeds import combined_interval
from w2v_compress.papers.stochastic import (
    Comparison,
    Curve,
    claim_table,
    cost_table,
    markdown,
    needed_data,
    plot,
    rate_after,
    rate_tables,
    read_results,
    speed_table,
    speeds,
    summarize,
    updates_for,
    verdict,
)


def counts(*errors: int) -> ErrorCounts:
    return ErrorCounts(np.array(errors), np.full(len(errors), 10))


@pytest.fixture
def results() -> dict[str, Any]:
    measured = {
        ("pinned", "1,1,1"): [counts(1, 0), counts(1, 2)],
        ("sampled", "1,1,1"): [counts(2, 1), counts(2, 3)],
        ("sampled", "2,1,1"): [counts(4, 4), counts(4, 4)],
        ("sampled", "2,2,2"): [counts(5, 5), counts(5, 5)],
    }
    comparisons = [
        Comparison("no worse", "sampled", "pinned", "1,1,1", margin=0.15),
        Comparison("no worse by 5 points", "sampled", "pinned", "1,1,1", margin=0.05),
        Comparison("better", "sampled", "pinned", "1,1,1"),
    ]
    costs = [
        {"point": "1,1,1", "macs_per_second": 2e6, "milliseconds_per_second": 4.0},
        {"point": "2,1,1", "macs_per_second": 1e6, "milliseconds_per_second": 2.5},
        {"point": "2,2,2", "macs_per_second": 0.9e6, "milliseconds_per_second": 2.4},
    ]
    curves = [Curve("sampled", {100: "sampled"}, ["1,1,1", "2,1,1"]), Curve("pinned", {100: "pinned"}, ["1,1,1"])]
    macs = {cost["point"]: cost["macs_per_second"] for cost in costs}
    compared = speeds(measured, curves[0], curves[1:], 100, macs)
    return summarize(measured, comparisons) | {"rate": "WER", "speeds": compared, "costs": costs}


def test_claim_table(results: dict[str, Any]) -> None:
    """Every utterance of every seed has one error in ten words more, so the intervals have no width."""
    columns, lines = claim_table(results)
    assert columns == ["claim", "model", "minus", "point", "WER, points", "95%", "claimed", "verdict"]
    assert lines[0] == ["no worse", "sampled", "pinned", "1,1,1", "10.00", "[10.00, 10.00]", "< 15", "holds"]
    assert [line[-2:] for line in lines] == [["< 15", "holds"], ["< 5", "fails"], ["< 0", "fails"]]


@pytest.mark.parametrize(
    ("low", "high", "margin", "expected"),
    [
        (-0.02, 0.014, 0.015, "holds"),
        (-0.02, 0.016, 0.015, "undecided"),
        (0.016, 0.05, 0.015, "fails"),
        (0.0, 0.01, 0.0, "undecided"),
    ],
)
def test_verdict(low: float, high: float, margin: float, expected: str) -> None:
    assert verdict({"value": (low + high) / 2, "low": low, "high": high}, margin) == expected


def test_needed_data() -> None:
    """An interval twice as wide as the distance of the mean from the margin needs four times the data."""
    assert needed_data({"value": 0.0, "low": -0.03, "high": 0.02}, margin=0.01) == pytest.approx(4)
    assert needed_data({"value": 0.02, "low": -0.01, "high": 0.03}, margin=0.01) == pytest.approx(9)
    assert needed_data({"value": 0.01, "low": 0.0, "high": 0.02}, margin=0.01) == float("inf")


def test_combined_interval() -> None:
    strings = {"value": 0.1, "low": 0.07, "high": 0.14}
    seeds = {"value": 0.1, "low": 0.06, "high": 0.13}
    combined = combined_interval({"over_seeds": seeds, "over_strings": strings})
    assert combined == pytest.approx({"value": 0.1, "low": 0.05, "high": 0.15})
    assert combined_interval({"over_seeds": None, "over_strings": strings}) == strings


def test_interpolated_curves() -> None:
    """Between 1,000 and 4,000 updates the error rate falls from 30 to 10%, and is 20% after 2,000."""
    curve = {1000: 0.3, 4000: 0.1}
    assert updates_for(curve, 0.2) == pytest.approx(2000)
    assert updates_for(curve, 0.1) == pytest.approx(4000)
    assert updates_for(curve, 0.09) is updates_for(curve, 0.31) is None
    assert rate_after(curve, 2000) == pytest.approx(0.2)
    assert rate_after(curve, 8000) == pytest.approx(0.1)


def test_speeds() -> None:
    """An update of the elastic model costs 3/4 of one pinned to 1,1,1."""
    measured = {
        ("elastic 1", "1,1,1"): [counts(4), counts(4)],
        ("elastic 2", "1,1,1"): [counts(2), counts(2)],
        ("pinned", "1,1,1"): [counts(3), counts(1)],
    }
    elastic = Curve("elastic", {1000: "elastic 1", 4000: "elastic 2"}, ["1,1,1", "2,1,1"])
    pinned = Curve("pinned", {1500: "pinned"}, ["1,1,1"])
    macs = {"1,1,1": 2.0, "2,1,1": 1.0}
    [row] = speeds(measured, elastic, [pinned], 1500, macs)
    assert row["updates_ratio"] == [pytest.approx(2000 / 1500), None]
    assert row["equal_compute"]["by_seed"] == pytest.approx([0.0, 0.2])  # after 2,000 updates, 30%
    [line] = speed_table({"speeds": [row], "rate": "CER"})[1]
    assert line[:5] == ["elastic", "1,1,1", "1 of 2", "1.33 to 1.33", "10.00"]


def test_points_without_a_measurement_are_empty(results: dict[str, Any]) -> None:
    squeezed, pooled = rate_tables(results)
    assert squeezed == (["model", "1,1,1", "2,1,1"], [["pinned", "10.00", "-"], ["sampled", "20.00", "40.00"]])
    assert pooled == (["model", "2,2,2"], [["sampled", "50.00"]])
    assert cost_table(results)[1][0] == ["1,1,1", "2.0", "4.0"]


def test_markdown_has_all_tables(results: dict[str, Any]) -> None:
    text = re.sub(" +", " ", markdown(results))
    assert "| no worse | sampled | pinned | 1,1,1 |" in text
    assert "| pinned | 10.00 | - |" in text
    assert "| 2,2,2 | 0.9 | 2.4 |" in text


def test_equal_models_are_undecided_and_can_be_stored(results: dict[str, Any], tmp_path: Path) -> None:
    same = summarize(
        {("a", "1,1,1"): [counts(1, 2)], ("b", "1,1,1"): [counts(2, 1)]}, [Comparison("", "a", "b", "1,1,1")]
    )
    write_json(tmp_path / "results.json", results | same)
    assert claim_table(read_results(tmp_path / "results.json"))[1][0][-1] == "undecided; on the margin"


def test_plot(results: dict[str, Any], tmp_path: Path) -> None:
    plot(results, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_command(run: Callable[..., tuple[int, str, str]], results: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps(results))
    status, out, _ = run("tables", "stochastic", tmp_path / "results.json", "--markdown", tmp_path / "tables.md")
    assert status == 0
    assert "no worse by 5 points" in out
    assert (tmp_path / "tables.md").read_text() == markdown(results)


@pytest.mark.parametrize("command", ["stochastic", "bigfoot"])
def test_tables_that_results_contain_are_printed(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path, command: str
) -> None:
    tables = [("first", ["a", "b"], [["1", "2"], ["3", "4"]]), ("other", ["c"], [["eleven"]])]
    (tmp_path / "results.json").write_text(json.dumps({"tables": to_json(tables)}))
    status, out, _ = run("tables", command, tmp_path / "results.json", "--markdown", tmp_path / "tables.md")
    assert status == 0
    assert "first" in out
    assert "other" in out
    assert (tmp_path / "tables.md").read_text() == markdown_tables(tables)
    assert markdown_tables(tables).count("\n") == 4 + 1 + 3


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
