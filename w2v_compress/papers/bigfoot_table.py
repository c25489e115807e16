"""The papers' tables with ours beside them, as people read them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..evaluation.report import markdown_table
from ..evaluation.wer import Interval

NOT_GIVEN = "-"
COLUMNS = ["model", "by", "params", "MB", "smaller", "CPU time", "faster", "WER, %"]
CHECK_COLUMNS = ["target", "measured", "met"]


def table(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Column names and lines of a report of `bigfoot.measure`: of each model the paper's line, if any, and ours."""
    with_energy = report.get("energy", {}).get("measured", False)
    lines = []
    for row in report["models"]:
        published, title = row["published"], row["title"]
        if published:
            lines.append([title, "paper", *_published_cells(published), *[NOT_GIVEN] * with_energy])
            title = ""
        by = "ours" if row["random"] else f"ours, {Path(row['weights']).name}"
        joules = [f"{row['joules_per_second']:.2f}"] if with_energy else []
        lines.append([title, by, *_measured_cells(row), *joules])
    return [*COLUMNS, *["J per s of audio"] * with_energy], lines


def check_table(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Column names and lines of the report's checks."""
    lines = [[check["target"], check["measured"], "yes" if check["met"] else "no"] for check in report["checks"]]
    return CHECK_COLUMNS, lines


def notes(report: Mapping[str, Any]) -> list[str]:
    """What the figures of the table are, one sentence or two a line."""
    machine = report["machine"]
    units = "int8 units (VNNI or AMX)" if machine["int8_units"] else "no int8 units"
    lines = [
        f"Ours: CPU time of {report['seconds']:g} s of noise, batch 1, median of {report['repeats']} runs in turns, on "
        f"{machine['processor']}, {machine['threads']} threads, {units}, "
        f"torch {machine['torch']}; weights and noise of seed {report['seed']}.",
        "MB are 1e6 bytes of the file. The paper's parameters and MB hold modules that only pre-training uses; "
        "our files leave them out.",
        "Paper: dev-clean on 8 cores, batch 1, greedy, no language model; its ratios follow from its MB and seconds.",
    ]
    if "energy" in report:
        reason = report["energy"]["reason"]
        lines.append(f"Energy: nothing was measured: {reason}." if reason else "Energy: of the whole processor, RAPL.")
    return lines


def markdown(report: Mapping[str, Any]) -> str:
    """The report as docs/results.md has it."""
    parts = [markdown_table(*table(report)), "".join(f"- {note}\n" for note in notes(report))]
    return "\n".join([*parts, markdown_table(*check_table(report))])


def _published_cells(published: Mapping[str, Any]) -> list[str]:
    return [
        _cell(published["parameters"], "{:.0f}M", 1e-6),
        _cell(published["megabytes"], "{:.0f}"),
        _cell(published["times_smaller"], "{:.2f}x"),
        _cell(published["cpu_seconds"], "{:.0f} s"),
        _cell(published["times_faster"], "{:.2f}x"),
        " / ".join(f"{rate:.2f}" for rate in published["wer"]) or NOT_GIVEN,
    ]


def _measured_cells(row: Mapping[str, Any]) -> list[str]:
    return [
        _cell(row["parameters"], "{:.1f}M", 1e-6),
        _cell(row["bytes"], "{:.1f}", 1e-6),
        _cell(row["times_smaller"], "{:.2f}x"),
        _cell(row["milliseconds"], "{:.0f} ms"),
        _cell(row["times_faster"], "{:.2f}x"),
        Interval(**row["wer"]).percent() if row["wer"] else NOT_GIVEN,
    ]


def _cell(value: float | None, form: str, unit: float = 1.0) -> str:
    return NOT_GIVEN if value is None else form.format(unit * value)
