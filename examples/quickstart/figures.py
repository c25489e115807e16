"""Table, plot and web page of the quickstart's results."""

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common import percent
from tabulate import tabulate

from w2v_compress.evaluation.plots import require_matplotlib, save_figure
from w2v_compress.evaluation.report import compute_device
from w2v_compress.files import write_text

COLUMNS = ["model", "params", "MB", "ms per s of audio", "WER", "WER with bigram"]
DECODINGS = {"wer": "greedy decoding", "wer_bigram": "beam search with the bigram"}
STYLE = """body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; } th, td { padding: .2rem .8rem; border-bottom: 1px solid #ddd; }
td { text-align: right; font-variant-numeric: tabular-nums; } td:first-child { text-align: left; }
img { max-width: 100%; } dt { font-weight: 600; } dd { margin-bottom: .5rem; }"""


def cells(row: Mapping[str, Any]) -> list[str]:
    """Format a row of the results with the columns COLUMNS."""
    return [
        row["model"],
        f"{row['parameters'] / 1e6:.2f}M",
        f"{row['bytes'] / 1e6:.2f}",
        f"{row['milliseconds_per_second']:.1f}",
        percent(row["wer"]),
        percent(row["wer_bigram"]),
    ]


def plot(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Plot WER against time for both decodings: a marker for each model, and a line for a model with several points."""
    pyplot = require_matplotlib()
    figure, axes = pyplot.subplots(1, 2, figsize=(12, 5), sharex=True, layout="constrained")
    for axis, (rate, title) in zip(axes, DECODINGS.items(), strict=True):
        for row in rows:
            if row["point"] is None:
                _draw(axis, [row], rate, row["model"], "s" if row["precision"] == "int8" else "o", "none")
        elastic = sorted((row for row in rows if row["point"]), key=lambda row: row["milliseconds_per_second"])
        if elastic:
            _draw(axis, elastic, rate, elastic[0]["file"], "D", "-")
        for row in elastic:
            place = row["milliseconds_per_second"], 100 * row[rate]["value"]
            axis.annotate(row["point"], place, textcoords="offset points", xytext=(5, 5), fontsize="x-small")
        axis.set_title(title)
        _label(axis)
    axes[0].legend(fontsize="small", loc="lower left")
    save_figure(figure, path)


def plot_curves(curves: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Plot mean WER over seeds, with intervals over prompts, against time: a line through the systems of each curve.

    The line follows the order of the systems.
    """
    pyplot = require_matplotlib()
    figure, axis = pyplot.subplots(figsize=(7, 5), layout="constrained")
    for label, systems in curves.items():
        rows = [{**system, "wer": system["wer"]["over_strings"]} for system in systems]
        _draw(axis, rows, "wer", label, "o", "-")
    _label(axis)
    axis.legend(loc="lower left")
    save_figure(figure, path)


def _label(axis: Any) -> None:
    """Label the axes of WER against time, which start at zero."""
    axis.set_xlabel("ms per s of audio")
    axis.set_ylabel("WER on the test prompts, %")
    axis.set_xlim(left=0)
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)


def _draw(axis: Any, rows: Sequence[Mapping[str, Any]], rate: str, label: str, marker: str, line: str) -> None:
    """Draw the WER of rows with its intervals."""
    rates = [row[rate] for row in rows]
    reach = [
        [100 * (each["value"] - each["low"]) for each in rates],
        [100 * (each["high"] - each["value"]) for each in rates],
    ]
    times = [row["milliseconds_per_second"] for row in rows]
    axis.errorbar(
        times,
        [100 * each["value"] for each in rates],
        yerr=reach,
        marker=marker,
        linestyle=line,
        capsize=3,
        elinewidth=0.8,
        label=label,
    )


def write_page(results: Mapping[str, Any], picture: Path, path: Path) -> None:
    """Write the results as one HTML file that needs no other file: plot, table, differences and transcripts."""
    table = tabulate([cells(row) for row in results["models"]], COLUMNS, tablefmt="html", disable_numparse=True)
    image = base64.b64encode(picture.read_bytes()).decode()
    differences = "".join(
        f"<li>{html.escape(title)}: {percent(gain)}</li>" for title, gain in results["wer_differences"].items()
    )
    transcripts = "".join(
        f"<h3>{html.escape(prompt['text'])}</h3><dl>"
        + "".join(
            f"<dt>{html.escape(each['point'])}, {each['milliseconds']:.1f} ms</dt><dd>{html.escape(each['text'])}</dd>"
            for each in prompt["transcripts"]
        )
        + "</dl>"
        for prompt in results["transcripts"]
    )
    write_text(
        path,
        f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>w2v_compress quickstart</title><style>{STYLE}</style></head><body>
<h1>One recognizer, compressed by every method</h1>
<p>{results["test_utterances"]} test prompts, {results["test_words"]} words; 95% bootstrap intervals. Times: batch 1,
{html.escape(compute_device(results["machine"]))}.</p>
<img alt="WER against time" src="data:image/png;base64,{image}">
{table}
<h2>Differences in WER</h2><ul>{differences}</ul>
<h2>Three prompts, transcribed by the elastic student in int8</h2>{transcripts}
</body></html>
""",
    )
