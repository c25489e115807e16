"""Results for the claims of "On-demand compute reduction with stochastic wav2vec 2.0" (Vyas et al. 2022).

Summarizes the errors of models, points and seeds as the tables and the plot that examples/stochastic writes and
`w2v-compress tables stochastic` prints.
"""

import itertools
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..evaluation.plots import require_matplotlib, save_figure
from ..evaluation.report import markdown_table, read_report
from ..evaluation.sweep import pareto_front
from ..evaluation.wer import ErrorCounts
from .bigfoot_table import NOT_GIVEN
from .seeds import combined_interval, difference, mean_and_interval, rates, seed_interval

Measured = Mapping[tuple[str, str], Sequence[ErrorCounts]]
"""Word or character errors of each seed, by (model, point)."""
Verdict = Literal["holds", "fails", "undecided"]


@dataclass(frozen=True)
class Comparison:
    """A claim: at `point`, the error rate of `model` is less than that of `baseline` plus `margin`.

    A margin above 0 makes it a claim that the model is no worse (non-inferiority).
    """

    claim: str
    model: str
    baseline: str
    point: str
    margin: float = 0.0
    """As a fraction, not in per cent."""


@dataclass(frozen=True)
class Curve:
    """A kind of training after several numbers of updates."""

    name: str
    models: Mapping[int, str]
    """Models by updates."""
    points: Sequence[str]
    """Points of training."""


def updates_for(curve: Mapping[int, float], rate: float) -> float | None:
    """Return the updates after which an error rate was reached, or None if it was at no time of the curve.

    `curve` has the error rates by updates. Between them, the rate is taken as linear in the logarithm of the updates.
    """
    measured = sorted(curve.items())
    for (before, worse), (after, better) in itertools.pairwise(measured):
        if worse > rate >= better:
            part = (worse - rate) / (worse - better)
            return math.exp(math.log(before) + part * math.log(after / before))
    return None


def rate_after(curve: Mapping[int, float], updates: float) -> float:
    """Return the error rate after a number of updates, interpolated as in `updates_for`, and constant outside."""
    measured = sorted(curve.items())
    return float(np.interp(math.log(updates), [math.log(each) for each, _ in measured], [rate for _, rate in measured]))


def speeds(
    counts: "Measured", elastic: Curve, pinned: Sequence[Curve], updates: int, macs: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Compare the training of an elastic model with those of models pinned to one point, by seed.

    At the point of each pinned model: the ratio of updates until the elastic model has the error rate that the pinned
    one has after `updates` (None where it never has), and the difference in the error rate after the same compute.

    Args:
        counts: Errors of each seed, by (model, point).
        elastic: The training at sampled points.
        pinned: The trainings at one point.
        updates: The updates of the pinned models.
        macs: The cost of an update by point.
    """
    cost = statistics.fmean(macs[point] for point in elastic.points)
    rows = []
    for other in pinned:
        (point,) = other.points
        ratios, differences = [], []
        for seed, run in enumerate(counts[other.models[updates], point]):
            curve = {each: counts[model, point][seed].rate for each, model in elastic.models.items()}
            needed = updates_for(curve, run.rate)
            ratios.append(None if needed is None else needed / updates)
            differences.append(rate_after(curve, updates * macs[point] / cost) - run.rate)
        equal_compute = {"by_seed": differences, "over_seeds": seed_interval(differences)}
        rows.append({"model": elastic.name, "point": point, "updates_ratio": ratios, "equal_compute": equal_compute})
    return rows


def verdict(interval: Mapping[str, float], margin: float) -> Verdict:
    """Return whether a claim holds or fails: whether all of the 95% interval lies under or over the margin."""
    return "holds" if interval["high"] < margin else "fails" if interval["low"] > margin else "undecided"


def needed_data(interval: Mapping[str, float], margin: float) -> float:
    """Return how many times as much data would decide the claim, if the mean stayed as it is.

    The width of an interval falls with the square root of the data. Infinite if the mean is on the margin.
    """
    distance = interval["value"] - margin
    width = interval["value"] - interval["low"] if distance > 0 else interval["high"] - interval["value"]
    return (width / distance) ** 2 if distance else math.inf


def decision(interval: Mapping[str, float], margin: float) -> str:
    """Return the verdict, of an undecided claim with how many times as much data would decide it."""
    found: str = verdict(interval, margin)
    if found == "undecided":
        needed = needed_data(interval, margin)
        found += f"; {needed:.1f}x the data" if needed < 100 else "; on the margin"
    return found


def summarize(counts: Measured, comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """Return the error rate of every model at every point, and the differences and verdicts of the comparisons."""
    models = [{"model": model, "point": point, "rate": rates(runs)} for (model, point), runs in counts.items()]
    differences = []
    for item in comparisons:
        rate = difference(counts[item.baseline, item.point], counts[item.model, item.point])
        interval = combined_interval(rate)
        decided = {"interval": interval, "verdict": verdict(interval, item.margin)}
        differences.append({**asdict(item), "rate": rate, **decided})
    return {"models": models, "comparisons": differences}


def read_results(path: Path) -> dict[str, Any]:
    """Read a results file of examples/stochastic. Raises `InputError` when the file is not such a file."""
    return read_report(
        path, ("rate", "models", "comparisons", "speeds", "costs"), "a results.json of examples/stochastic"
    )


def claim_table(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return column names and lines of the comparisons: difference in percentage points, interval and verdict."""
    lines = []
    for row in results["comparisons"]:
        mean, interval = mean_and_interval(row["interval"])
        decided = decision(row["interval"], row["margin"])
        names = [row["claim"], row["model"], row["baseline"], row["point"]]
        lines.append([*names, mean, interval, f"< {100 * row['margin']:g}", decided])
    return ["claim", "model", "minus", "point", f"{results['rate']}, points", "95%", "claimed", "verdict"], lines


def rate_tables(results: Mapping[str, Any]) -> list[tuple[list[str], list[list[str]]]]:
    """Return tables of error rates in per cent, one for the models of each set of points: a line for each model."""
    measured: dict[str, dict[str, str]] = {}
    for row in results["models"]:
        measured.setdefault(row["model"], {})[row["point"]] = mean_and_interval(row["rate"]["over_strings"])[0]
    pooled = {point for rate in measured.values() for point in rate if not point.endswith(",1,1")}
    tables = []
    for shown in (lambda point: point not in pooled, lambda point: point in pooled):
        points = list(dict.fromkeys(cost["point"] for cost in results["costs"] if shown(cost["point"])))
        lines = [
            [model, *(rate.get(point, NOT_GIVEN) for point in points)]
            for model, rate in measured.items()
            if any(point in rate for point in points)
        ]
        if lines:
            tables.append((["model", *points], lines))
    return tables


def cost_table(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return column names and lines of the points: compute and time."""
    lines = [
        [cost["point"], f"{cost['macs_per_second'] / 1e6:.1f}", f"{cost['milliseconds_per_second']:.1f}"]
        for cost in results["costs"]
    ]
    return ["point", "M MACs per s", "ms per s"], lines


def speed_table(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return column names and lines of `speeds`: ratio of updates at equal error rate, difference at equal compute."""
    lines = []
    for row in results["speeds"]:
        reached = sorted(ratio for ratio in row["updates_ratio"] if ratio is not None)
        seeds = f"{len(reached)} of {len(row['updates_ratio'])}"
        ratios = f"{reached[0]:.2f} to {reached[-1]:.2f}" if reached else NOT_GIVEN
        equal = row["equal_compute"]
        mean = f"{100 * statistics.fmean(equal['by_seed']):.2f}"
        lines.append([row["model"], row["point"], seeds, ratios, mean, mean_and_interval(equal["over_seeds"])[1]])
    columns = ["model", "point", "seeds that reach it", "times the updates"]
    return [*columns, f"{results['rate']}, points, equal compute", "over seeds"], lines


def terminal_tables(results: Mapping[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return title, column names and lines of tables that fit into 80 columns: claims, error rates and costs."""
    tables = []
    columns, lines = claim_table(results)
    for claim in dict.fromkeys(line[0] for line in lines):
        rows = [
            [f"{model} - {baseline}", point, mean, interval, decided]
            for about, model, baseline, point, mean, interval, _, decided in lines
            if about == claim
        ]
        tables.append((f"{claim}: {columns[4]}", ["difference of", "point", "mean", "95%", "verdict"], rows))
    for columns, lines in rate_tables(results):
        for start in range(1, len(columns), 4):
            shown = slice(start, start + 4)
            part = [[line[0], *line[shown]] for line in lines]
            tables.append((f"{results['rate']}, %", ["model", *columns[shown]], part))
    if results["speeds"]:
        tables.append(("Training, against pinned models", *speed_table(results)))
    return [*tables, ("Cost", *cost_table(results))]


def markdown(results: Mapping[str, Any]) -> str:
    """Format all tables in Markdown; rates in per cent, differences in percentage points."""
    tables = [claim_table(results), *rate_tables(results)]
    tables += [speed_table(results)] if results["speeds"] else []
    tables.append(cost_table(results))
    return "\n".join(markdown_table(*table) for table in tables)


def plot(results: Mapping[str, Any], path: Path) -> None:
    """Plot error rate over measured time as PNG, with a line through the best points of each kind of training.

    Models of one point each that differ only in the point, such as `pinned to 2,1,1`, are one kind.
    """
    pyplot = require_matplotlib()
    time = {row["point"]: row["milliseconds_per_second"] for row in results["costs"]}
    points = Counter(row["model"] for row in results["models"])
    series: dict[str, list[tuple[float, float]]] = {}
    for row in results["models"]:
        pinned = points[row["model"]] == 1
        name = row["model"].replace(f" to {row['point']}", "") if pinned else row["model"]
        series.setdefault(name, []).append((time[row["point"]], 100 * row["rate"]["over_strings"]["value"]))
    figure, axis = pyplot.subplots(figsize=(10, 5), layout="constrained")
    for index, (name, values) in enumerate(series.items()):
        color = pyplot.get_cmap("tab20")(index % 20)
        axis.plot(*zip(*sorted(values), strict=True), "o", color=color, label=name)
        best = pareto_front(values)
        front = sorted(pair for pair, is_best in zip(values, best, strict=True) if is_best)
        axis.plot(*zip(*front, strict=True), color=color)
    axis.set_xlabel("ms per s of audio")
    axis.set_ylabel(f"{results['rate']}, %")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    save_figure(figure, path)
