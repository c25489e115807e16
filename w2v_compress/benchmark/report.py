"""What `benchmark` measured, as people read it: its report as tables, as sentences and drawn."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..evaluation.report import markdown_table, megabytes, read_report
from ..evaluation.sweep import require_matplotlib
from ..files import replacing

NOT_MEASURED = "-"
OURS_COLOUR, OTHERS_COLOUR = "tab:blue", "silver"


def tables(report: Mapping[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, column names and lines of two tables a point: times and memory, and how far the outputs are off."""
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
            (f"{at}: largest and rms error of the logits, frames with another label", ["runtime", *names], errors),
        ]
    return found


def notes(report: Mapping[str, Any]) -> list[str]:
    """What the figures of the tables are, one sentence or two a line."""
    reference = report["reference"]
    weights = "random weights" if report["network"]["weights"] == "random" else report["network"]["weights"]
    return [
        f"Times are medians of {report['repeats']} runs in turns, a process each; in brackets, how many times faster "
        f"than {reference['runtime']} of {reference['network']} at {reference['point']} in the same turns.",
        "Start: from a new process to the output of the shortest audio. Logits are compared with "
        f"{report['exact']} for each utterance alone, up to a constant in each frame. "
        f"Of {weights}, on {report['audio']}; seed {report['seed']}.",
    ]


def markdown(report: Mapping[str, Any]) -> str:
    """Tables and notes as docs/results.md has them."""
    parts = [f"**{title}**\n\n{markdown_table(columns, lines)}" for title, columns, lines in tables(report)]
    return "\n".join([*parts, "".join(f"- {note}\n" for note in notes(report))])


def read_results(path: Path) -> dict[str, Any]:
    """What `benchmark` wrote with --json. Raises `InputError` when the file is not that."""
    return read_report(path, ("network", "reference", "groups", "machine"), "what `benchmark --json` wrote")


def label(report: Mapping[str, Any], group: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """The runtime's name, with what it runs where that is not what its table is about."""
    network = "" if row["network"] == report["network"]["title"] else f" of {row['network']}"
    return row["runtime"] + network + ("" if row["point"] == group["point"] else f" at {row['point']}")


def plot(report: Mapping[str, Any], path: Path) -> None:
    """Bars of the time of each runtime, a panel a case, as PNG."""
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
        colours = [OURS_COLOUR if row["runtime"].startswith("ours") else OTHERS_COLOUR for _, row in rows]
        bars = axis.barh(range(len(rows)), [time or 0 for time in times], color=colours)
        axis.bar_label(bars, ["failed" if time is None else f"{time:.0f}" for time in times], padding=3)
        axis.set_title(f"{name} of audio" if name.endswith(" s") else name)
        axis.set_xlabel("ms")
        axis.margins(x=0.2)  # for the figures at the ends of the bars
    axes[0][0].set_yticks(range(len(rows)), [name for name, _ in rows])
    axes[0][0].invert_yaxis()
    figure.suptitle(f"{report['network']['title']} on {report['machine']['processor']}")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    pyplot.close(figure)


def _time(case: Mapping[str, Any]) -> str:
    faster = "" if case["times_faster"] is None else f" ({case['times_faster']:.2f}x)"
    return _shown(case["milliseconds"], "{:.1f}".format) + faster


def _resources(row: Mapping[str, Any]) -> list[str]:
    return [_shown(row["start_seconds"], "{:.2f} s".format), _shown(row["peak_bytes"], megabytes)]


def _errors(case: Mapping[str, Any]) -> str:
    return _shown(
        case["errors"],
        lambda errors: f"{errors['largest']:.2g}, {errors['rms']:.2g}, {100 * errors['changed_frames']:.2f}%",
    )


def _shown(value: Any, how: Callable[[Any], str]) -> str:
    return NOT_MEASURED if value is None else how(value)
