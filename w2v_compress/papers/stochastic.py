"""What the four claims of "On-demand compute reduction with stochastic wav2vec 2.0" (Vyas et al. 2022) come to.

From errors by model, point and seed to the tables and the curve that examples/stochastic writes and
`w2v-compress tables stochastic` shows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..evaluation.report import markdown_table, read_report
from ..evaluation.sweep import pareto_front, require_matplotlib
from ..evaluation.wer import ErrorCounts
from ..files import replacing
from .bigfoot_table import NOT_GIVEN
from .seeds import cells, difference, points, rates

MODELS_AT_ONCE = 4
Measured = Mapping[tuple[str, str], Sequence[ErrorCounts]]
"""(model, point) -> word or character errors, one for each seed."""


@dataclass(frozen=True)
class Comparison:
    """The error rate of `model` minus that of `baseline`, each at its point, and what it is to show."""

    claim: str
    model: str
    baseline: str
    point: str
    baseline_point: str = ""
    """By default the same."""


def summarise(counts: Measured, comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """Error rate of every model at every point, and the differences that the claims are about."""
    models = [{"model": model, "point": point, "rate": rates(runs)} for (model, point), runs in counts.items()]
    differences = []
    for item in comparisons:
        first = counts[item.baseline, item.baseline_point or item.point]
        rate = difference(first, counts[item.model, item.point])
        differences.append({**vars(item), "baseline_point": item.baseline_point or item.point, "rate": rate})
    return {"models": models, "comparisons": differences}


def read_results(path: Path) -> dict[str, Any]:
    """What the example wrote. Raises `InputError` when the file is not that."""
    return read_report(path, ("rate", "models", "comparisons", "costs"), "a results.json of examples/stochastic")


def claim_table(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Column names and lines: each comparison with its difference in points and its intervals."""
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
    """Column names and lines: of each point its compute, its time, and the error rate of every model measured there."""
    names = list(dict.fromkeys(row["model"] for row in results["models"]))
    rate = {(row["model"], row["point"]): row["rate"] for row in results["models"]}
    lines = []
    for cost in results["costs"]:
        point = cost["point"]
        found = [points(rate[name, point]["over_strings"])[0] if (name, point) in rate else NOT_GIVEN for name in names]
        compute = [f"{cost['macs_per_second'] / 1e6:.1f}", f"{cost['milliseconds_per_second']:.1f}"]
        lines.append([point, *compute, *found])
    return ["point", "M MACs per s", "ms per s", *(f"{results['rate']}, {name}" for name in names)], lines


def terminal_tables(results: Mapping[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, column names and lines of tables that fit into 80 columns: the comparisons of each claim, what each point
    costs, and the error rates of a few models at a time.
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
    for start in range(3, len(columns), MODELS_AT_ONCE):
        shown = slice(start, start + MODELS_AT_ONCE)
        names = [name.removeprefix(f"{results['rate']}, ") for name in columns[shown]]
        tables.append((f"{results['rate']}, %", ["point", *names], [[line[0], *line[shown]] for line in lines]))
    return tables


def markdown(results: Mapping[str, Any]) -> str:
    """Both tables, as docs/results.md has them; rates in per cent, differences in points."""
    return "\n".join([markdown_table(*claim_table(results)), markdown_table(*point_table(results))])


def plot(results: Mapping[str, Any], path: Path) -> None:
    """Error rate against measured time: a line for each model that runs at several points, a mark for the others."""
    pyplot = require_matplotlib()
    time = {row["point"]: row["milliseconds_per_second"] for row in results["costs"]}
    names = list(dict.fromkeys(row["model"] for row in results["models"]))
    figure, axis = pyplot.subplots(figsize=(8, 5), layout="constrained")
    for index, name in enumerate(names):
        rows = [row for row in results["models"] if row["model"] == name]
        found = sorted((time[row["point"]], 100 * row["rate"]["over_strings"]["value"], row["point"]) for row in rows)
        style = "o" if len(found) > 1 else "s"
        axis.plot(*zip(*(pair[:2] for pair in found), strict=True), style, color=f"C{index}", label=name, alpha=0.7)
        front = [pair[:2] for pair, best in zip(found, pareto_front([pair[:2] for pair in found]), strict=True) if best]
        axis.plot(*zip(*front, strict=True), color=f"C{index}", alpha=0.7)
    axis.set_xlabel("ms per s of audio")
    axis.set_ylabel(f"{results['rate']}, %")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    pyplot.close(figure)
