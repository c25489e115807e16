"""Results for the four claims of "On-demand compute reduction with stochastic wav2vec 2.0" (Vyas et al. 2022).

Summarizes the errors of models, points and seeds as the tables and the plot that examples/stochastic writes and
`w2v-compress tables stochastic` prints.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..evaluation.plots import require_matplotlib, save_figure
from ..evaluation.report import markdown_table, read_report
from ..evaluation.sweep import pareto_front
from ..evaluation.wer import ErrorCounts
from .bigfoot_table import NOT_GIVEN
from .seeds import cells, difference, mean_and_interval, rates

MODELS_PER_TABLE = 4
Measured = Mapping[tuple[str, str], Sequence[ErrorCounts]]
"""Word or character errors of each seed, by (model, point)."""


@dataclass(frozen=True)
class Comparison:
    """A comparison of `model` with `baseline`, each at its point, and the claim that it tests."""

    claim: str
    model: str
    baseline: str
    point: str
    baseline_point: str = ""
    """Point of the baseline; by default `point`."""


def summarize(counts: Measured, comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """Return the error rate of every model at every point, and the differences of the comparisons."""
    models = [{"model": model, "point": point, "rate": rates(runs)} for (model, point), runs in counts.items()]
    differences = []
    for item in comparisons:
        first = counts[item.baseline, item.baseline_point or item.point]
        rate = difference(first, counts[item.model, item.point])
        differences.append({**vars(item), "baseline_point": item.baseline_point or item.point, "rate": rate})
    return {"models": models, "comparisons": differences}


def read_results(path: Path) -> dict[str, Any]:
    """Read a results file of examples/stochastic. Raises `InputError` when the file is not such a file."""
    return read_report(path, ("rate", "models", "comparisons", "costs"), "a results.json of examples/stochastic")


def claim_table(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return column names and lines of the comparisons: difference in percentage points and its intervals."""
    lines = []
    for row in results["comparisons"]:
        against = (
            row["baseline"]
            if row["baseline_point"] == row["point"]
            else f"{row['baseline']} at {row['baseline_point']}"
        )
        lines.append([row["claim"], row["model"], against, row["point"], *cells(row["rate"])])
    return ["claim", "model", "minus", "point", f"{results['rate']}, points", "over seeds", "over utterances"], lines


def point_table(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return column names and lines of the points: compute, time and the error rate of every model."""
    names = list(dict.fromkeys(row["model"] for row in results["models"]))
    rate = {(row["model"], row["point"]): row["rate"] for row in results["models"]}
    lines = []
    for cost in results["costs"]:
        point = cost["point"]
        values = [
            mean_and_interval(rate[name, point]["over_strings"])[0] if (name, point) in rate else NOT_GIVEN
            for name in names
        ]
        compute = [f"{cost['macs_per_second'] / 1e6:.1f}", f"{cost['milliseconds_per_second']:.1f}"]
        lines.append([point, *compute, *values])
    return ["point", "M MACs per s", "ms per s", *(f"{results['rate']}, {name}" for name in names)], lines


def terminal_tables(results: Mapping[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return title, column names and lines of tables that fit into 80 columns.

    These are the comparisons of each claim, the cost of each point, and the error rates of a few models per table.
    """
    tables = []
    columns, lines = claim_table(results)
    for claim in dict.fromkeys(line[0] for line in lines):
        rows = [
            [f"{model} - {baseline}", *rest] for about, model, baseline, *rest in lines if about == claim
        ]  # fmt: skip
        tables.append((f"{claim}: {columns[4]}", ["difference of", columns[3], "mean", *columns[5:]], rows))
    columns, lines = point_table(results)
    tables.append(("Cost", columns[:3], [line[:3] for line in lines]))
    for start in range(3, len(columns), MODELS_PER_TABLE):
        shown = slice(start, start + MODELS_PER_TABLE)
        names = [name.removeprefix(f"{results['rate']}, ") for name in columns[shown]]
        tables.append((f"{results['rate']}, %", ["point", *names], [[line[0], *line[shown]] for line in lines]))
    return tables


def markdown(results: Mapping[str, Any]) -> str:
    """Format both tables in Markdown; rates in per cent, differences in percentage points."""
    return "\n".join([markdown_table(*claim_table(results)), markdown_table(*point_table(results))])


def plot(results: Mapping[str, Any], path: Path) -> None:
    """Plot error rate over measured time as PNG: a line for models with several points, a marker for the others."""
    pyplot = require_matplotlib()
    time = {row["point"]: row["milliseconds_per_second"] for row in results["costs"]}
    names = list(dict.fromkeys(row["model"] for row in results["models"]))
    figure, axis = pyplot.subplots(figsize=(8, 5), layout="constrained")
    for index, name in enumerate(names):
        rows = [row for row in results["models"] if row["model"] == name]
        values = sorted((time[row["point"]], 100 * row["rate"]["over_strings"]["value"], row["point"]) for row in rows)
        style = "o" if len(values) > 1 else "s"
        axis.plot(*zip(*(pair[:2] for pair in values), strict=True), style, color=f"C{index}", label=name, alpha=0.7)
        best = pareto_front([pair[:2] for pair in values])
        front = [pair[:2] for pair, is_best in zip(values, best, strict=True) if is_best]
        axis.plot(*zip(*front, strict=True), color=f"C{index}", alpha=0.7)
    axis.set_xlabel("ms per s of audio")
    axis.set_ylabel(f"{results['rate']}, %")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small")
    save_figure(figure, path)
