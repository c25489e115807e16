"""Tables, notes and plot of a report of `benchmark`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..evaluation.plots import require_matplotlib, save_figure
from ..evaluation.report import markdown_table, megabytes, read_report

NOT_MEASURED = "-"
OURS_COLOR, OTHERS_COLOR = "tab:blue", "silver"


def tables(report: Mapping[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return title, column names and lines of two tables per point: time and memory, and output errors."""
    machine, title = report["machine"], report["network"]["title"]
    place = f"{machine['processor']}, {machine['threads']} threads"
    found = []
    for group in report["groups"]:
        names = [case["case"] for case in group["runtimes"][0]["cases"]]
        costs = [[label(report, group, row), *map(_time, row["cases"]), *_resources(row)] for row in group["runtimes"]]
        errors = [
            [label(report, group, row), *map(_errors, row["cases"])]
            for row in group["runtimes"]
            if any(case["errors"] for case in row["cases"])
        ]
        at = f"{title} at {group['point']}"
        found += [
            (f"{at}: ms on {place}", ["runtime", *names, "start", "peak memory"], costs),
            (f"{at}: largest and rms error of the logits, frames with a different label", ["runtime", *names], errors),
        ]
    return found


def notes(report: Mapping[str, Any]) -> list[str]:
    """Return notes that explain the tables, one per line."""
    baseline = report["reference"]
    weights = report["network"]["weights"]
    lines = [
        f"Times: medians of {report['repeats']} interleaved runs, one process per runtime; in brackets, the speed-up "
        f"over {baseline['runtime']} of {baseline['network']} at {baseline['point']} in the same rounds.",
        "Start: from the start of a process to the output of the shortest audio. Logits are compared with those of "
        f"{report['exact']} for single utterances, after subtracting each frame's mean. "
        f"Weights: {weights}; audio: {report['audio']}; seed {report['seed']}.",
    ]
    # Reports of earlier versions have neither field.
    if "calibration" in report:
        lines += _calibration_notes(report)
    if report.get("busy"):
        lines.append(f"Measured beside competing processes that compute without pause: {report['busy']}.")
    return lines


def markdown(report: Mapping[str, Any]) -> str:
    """Format tables and notes in Markdown."""
    parts = [f"**{title}**\n\n{markdown_table(columns, lines)}" for title, columns, lines in tables(report)]
    return "\n".join([*parts, "".join(f"- {note}\n" for note in notes(report))])


def read_results(path: Path) -> dict[str, Any]:
    """Read a report that `benchmark --json` wrote. Raises `InputError` when the file is not such a report."""
    return read_report(path, ("network", "reference", "groups", "machine"), "what `benchmark --json` wrote")


def label(report: Mapping[str, Any], group: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """Return the name of a runtime, with its network and point where they differ from those of the table."""
    network = "" if row["network"] == report["network"]["title"] else f" of {row['network']}"
    return row["runtime"] + network + ("" if row["point"] == group["point"] else f" at {row['point']}")


def plot(report: Mapping[str, Any], path: Path) -> None:
    """Plot the times of all runtimes as bars, one panel per case, as PNG."""
    pyplot = require_matplotlib()
    rows = [
        (f"{group['point']}  {label(report, group, row)}", row)
        for group in report["groups"]
        for row in group["runtimes"]
    ]
    names = [case["case"] for case in rows[0][1]["cases"]]
    figure, axes = pyplot.subplots(
        1,
        len(names),
        figsize=(4 + 3 * len(names), 1.5 + 0.3 * len(rows)),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for index, (axis, name) in enumerate(zip(axes[0], names, strict=True)):
        times = [row["cases"][index]["milliseconds"] for _, row in rows]
        colors = [OURS_COLOR if row["runtime"].startswith("ours") else OTHERS_COLOR for _, row in rows]
        bars = axis.barh(range(len(rows)), [time or 0 for time in times], color=colors)
        axis.bar_label(bars, ["failed" if time is None else f"{time:.0f}" for time in times], padding=3)
        axis.set_title(f"{name} of audio" if name.endswith(" s") else name)
        axis.set_xlabel("ms")
        axis.margins(x=0.2)  # leaves space for the numbers at the ends of the bars
    axes[0][0].set_yticks(range(len(rows)), [name for name, _ in rows])
    axes[0][0].invert_yaxis()
    figure.suptitle(f"{report['network']['title']} on {report['machine']['processor']}")
    save_figure(figure, path)


def _calibration_notes(report: Mapping[str, Any]) -> list[str]:
    """Return notes that say for each int8 runtime what it was calibrated on."""
    found: dict[int | None, list[str]] = {}
    for group in report["groups"]:
        for row in group["runtimes"]:
            if row["precision"] == "int8":
                names = found.setdefault(row["calibration_utterances"], [])
                names += [row["runtime"]] * (row["runtime"] not in names)
    audio, seconds = (report["calibration"][name] for name in ("audio", "seconds"))
    return [
        f"Not calibrated, with the scales of activations computed in each run: {', '.join(names)}."
        if utterances is None
        else f"Calibrated on {utterances} utterances ({seconds:g} s) of {audio}: {', '.join(names)}."
        for utterances, names in found.items()
    ]


def _time(case: Mapping[str, Any]) -> str:
    """Format a time with its speed-up."""
    speed_up = "" if case["times_faster"] is None else f" ({case['times_faster']:.2f}x)"
    return _format(case["milliseconds"], "{:.1f}".format) + speed_up


def _resources(row: Mapping[str, Any]) -> list[str]:
    """Format start-up time and peak memory."""
    return [_format(row["start_seconds"], "{:.2f} s".format), _format(row["peak_bytes"], megabytes)]


def _errors(case: Mapping[str, Any]) -> str:
    """Format the output errors of a case."""
    return _format(
        case["errors"],
        lambda errors: f"{errors['largest']:.2g}, {errors['rms']:.2g}, {100 * errors['changed_frames']:.2f}%",
    )


def _format(value: Any, formatter: Callable[[Any], str]) -> str:
    """Format a value, or `NOT_MEASURED` for None."""
    return NOT_MEASURED if value is None else formatter(value)
