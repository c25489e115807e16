"""Summarize the word errors by seed and string as figures, tables and a plot."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from w2v_compress.evaluation.report import markdown_table
from w2v_compress.evaluation.wer import ErrorCounts
from w2v_compress.files import replacing
from w2v_compress.papers.seeds import cells, difference, mean_and_interval, rates

Model = tuple[str, int, str]
"""(recipe, layers, precision)"""


def summarize(counts: Mapping[Model, Sequence[ErrorCounts]], baselines: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return the WER of each model, its difference to the baselines of its recipe, and the WER difference of int8."""
    models, gains, costs = [], [], []
    for (recipe, layers, precision), runs in counts.items():
        model = {"recipe": recipe, "layers": layers, "precision": precision}
        models.append(model | {"wer": rates(runs)})
        if precision != "fp32":
            costs.append(model | {"wer": difference(counts[recipe, layers, "fp32"], runs)})
        for baseline in baselines.get(recipe, ()) if precision == "fp32" else ():
            against = {"baseline": baseline, "wer": difference(counts[baseline, layers, precision], runs)}
            gains.append(model | against)
    return {"models": models, "distilled_minus_baseline": gains, "int8_minus_fp32": costs}


def markdown(results: Mapping[str, Any]) -> str:
    """Format tables of WER in percent, of WER differences in percentage points, and of costs."""
    intervals = ["mean", "over seeds", "over strings"]
    int8 = {
        (row["recipe"], row["layers"], row["precision"]): row["wer"]["over_strings"]
        for row in results["int8_minus_fp32"]
    }
    wer_rows = []
    for row in results["models"]:
        extra = int8.get((row["recipe"], row["layers"], row["precision"]))
        delta = " ".join(mean_and_interval(extra)) if extra else ""
        wer_rows.append([str(row["layers"]), row["recipe"], row["precision"], *cells(row["wer"]), delta])
    gain_rows = [
        [str(row["layers"]), row["recipe"], row["baseline"], *cells(row["wer"])]
        for row in results["distilled_minus_baseline"]
    ]
    cost_rows = [
        [
            str(row["layers"]),
            row["precision"],
            f"{row['parameters'] / 1e6:.2f}M",
            f"{row['bytes'] / 1e6:.2f}",
            f"{row['milliseconds_per_second']:.1f}",
        ]
        for row in results["costs"]
    ]
    wer_columns = ["layers", "recipe", "precision", *(f"WER, {name}" for name in intervals), "minus fp32"]
    return "\n".join(
        [
            markdown_table(["layers", "recipe", "minus", *(f"WER, {name}" for name in intervals)], gain_rows),
            markdown_table(wer_columns, wer_rows),
            markdown_table(["layers", "precision", "params", "MB", "ms per s of audio"], cost_rows),
        ]
    )


def plot(results: Mapping[str, Any], path: Path) -> None:
    """Plot the WER of the fp32 models by recipe and layers: one dot per seed, and the interval over seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [row for row in results["models"] if row["precision"] == "fp32"]
    depths = sorted({row["layers"] for row in shown if row["wer"]["over_seeds"]}, reverse=True)
    figure, axes = pyplot.subplots(1, len(depths), figsize=(10, 4), layout="constrained", squeeze=False)
    (teacher,) = (row["wer"]["by_seed"][0] for row in shown if row["recipe"] == "teacher")
    for axis, layers in zip(axes[0], depths, strict=True):
        rows = [row for row in shown if row["layers"] == layers]
        for place, row in enumerate(rows):
            by_seed, mean = row["wer"]["by_seed"], row["wer"]["over_seeds"]
            reach = 100 * (mean["high"] - mean["value"])
            axis.errorbar([place], [100 * mean["value"]], yerr=[reach], fmt="s", capsize=5, color="black")
            axis.plot([place + 0.15] * len(by_seed), [100 * rate for rate in by_seed], "o", color="tab:blue", alpha=0.6)
        axis.axhline(100 * teacher, linestyle=":", color="gray", label="teacher, 24 layers")
        axis.set_xticks(range(len(rows)), [row["recipe"].replace(", ", ",\n") for row in rows])
        axis.set_title(f"{layers} layers")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3, axis="y")
    axes[0][0].set_ylabel("WER, %")
    axes[0][-1].legend(fontsize="small")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    pyplot.close(figure)
