"""Tables and notes of a report of `bigfoot.measure`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..evaluation.report import markdown_table, read_report
from ..evaluation.wer import Interval

NOT_GIVEN = "-"
COLUMNS = ["model", "by", "params", "MB", "smaller", "CPU time", "faster", "WER, %"]
CHECK_COLUMNS = ["target", "measured", "met"]


def read_results(path: Path) -> dict[str, Any]:
    """Read a results file of `tables bigfoot`. Raises `InputError` when the file is not such a file."""
    fields = ("seed", "seconds", "repeats", "machine", "models", "checks")
    return read_report(path, fields, "a file of `w2v-compress tables bigfoot --json`")


def table(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return column names and lines of the models: the published results, if any, followed by ours."""
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
    """Return column names and lines of the checks."""
    lines = [[check["target"], check["measured"], "yes" if check["met"] else "no"] for check in report["checks"]]
    return CHECK_COLUMNS, lines


def notes(report: Mapping[str, Any]) -> list[str]:
    """Return notes that explain the table, one per line."""
    machine = report["machine"]
    units = "int8 units (VNNI or AMX)" if machine["int8_units"] else "no int8 units"
    lines = [
        f"Ours: CPU time for {report['seconds']:g} s of noise, batch 1, median of {report['repeats']} interleaved "
        f"runs, {machine['processor']}, {machine['threads']} threads, {units}, torch {machine['torch']}; "
        f"random seed of weights and noise: {report['seed']}.",
        "MB: size of the file in 1e6 bytes. The paper's parameters and MB include modules that only pre-training "
        "uses; our files do not contain them.",
        "Paper: dev-clean on 8 cores, batch 1, greedy decoding, no language model; ratios are computed from its MB and "
        "seconds.",
    ]
    if "energy" in report:
        reason = report["energy"]["reason"]
        lines.append(f"Energy: not measured: {reason}." if reason else "Energy: of the processor, from RAPL counters.")
    return lines


def markdown(report: Mapping[str, Any]) -> str:
    """Format tables and notes in Markdown, for docs/results.md."""
    parts = [markdown_table(*table(report)), "".join(f"- {note}\n" for note in notes(report))]
    return "\n".join([*parts, markdown_table(*check_table(report))])


def _published_cells(published: Mapping[str, Any]) -> list[str]:
    """Format the published results of a model."""
    return [
        _cell(published["parameters"], "{:.0f}M", 1e-6),
        _cell(published["megabytes"], "{:.0f}"),
        _cell(published["times_smaller"], "{:.2f}x"),
        _cell(published["cpu_seconds"], "{:.0f} s"),
        _cell(published["times_faster"], "{:.2f}x"),
        " / ".join(f"{rate:.2f}" for rate in published["wer"]) or NOT_GIVEN,
    ]


def _measured_cells(row: Mapping[str, Any]) -> list[str]:
    """Format our results for a model."""
    return [
        _cell(row["parameters"], "{:.1f}M", 1e-6),
        _cell(row["bytes"], "{:.1f}", 1e-6),
        _cell(row["times_smaller"], "{:.2f}x"),
        _cell(row["milliseconds"], "{:.0f} ms"),
        _cell(row["times_faster"], "{:.2f}x"),
        Interval(**row["wer"]).percent() if row["wer"] else NOT_GIVEN,
    ]


def _cell(value: float | None, template: str, unit: float = 1.0) -> str:
    """Format `unit * value`, or `NOT_GIVEN` for None."""
    return NOT_GIVEN if value is None else template.format(unit * value)
