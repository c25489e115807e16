"""What reproduces of both papers: each claim with what the stored results say of it.

    python benchmarks/claims.py --markdown benchmarks/results/claims.md

A claim about a difference holds if all of its 95% interval lies under the margin, fails if all of it lies over that,
and is undecided otherwise; then the table says how many times as much data would decide it, if the mean stayed.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from w2v_compress.cli.console import print_table
from w2v_compress.evaluation.report import markdown_table
from w2v_compress.files import write_text
from w2v_compress.papers.seeds import combined_interval, mean_and_interval
from w2v_compress.papers.stochastic import decision

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = ["claim", "measured", "claimed", "verdict", "results"]
BIGFOOT = "benchmarks/results/bigfoot.json"
DIGITS = "examples/fsdd/results/results.json"
PROMPTS = "examples/quickstart/results/results.json"
SEEDS = "examples/quickstart/results/seeds.json"
STOCHASTIC_DIGITS = "examples/stochastic/results/digits/results.json"
STOCHASTIC_SENTENCES = "examples/stochastic/results/sentences/results.json"
INT8_MARGIN = 0.005
"""WER that int8 may cost; the paper has 0.0012 for LARGE."""


@dataclass(frozen=True)
class Factor:
    """A claim that something is so many times smaller or faster."""

    text: str
    results: str
    find: Callable[[Any], float]
    """Finds the factor in the results."""
    least: float

    def cells(self, results: Any) -> list[str]:
        """Return what was measured, what is claimed, and the verdict."""
        value = self.find(results)
        return [f"{value:.2f}x", f">= {self.least:g}x", "holds" if value >= self.least else "fails"]


@dataclass(frozen=True)
class Difference:
    """A claim that a difference in WER lies under a margin."""

    text: str
    results: str
    find: Callable[[Any], Mapping[str, float]]
    """Finds the interval of the difference in the results."""
    margin: float = 0.0

    def cells(self, results: Any) -> list[str]:
        """Return what was measured, what is claimed, and the verdict."""
        interval = self.find(results)
        claimed = f"< {100 * self.margin:g} points"
        return [" ".join(mean_and_interval(interval)), claimed, decision(interval, self.margin)]


@dataclass(frozen=True)
class EveryPoint:
    """A claim of a stochastic model that must hold at every point of a comparison of examples/stochastic."""

    text: str
    results: str
    comparison: str
    """Name of the comparison in the results."""
    model: str = ""
    """The compared model, where several models share the name."""

    def cells(self, results: Any) -> list[str]:
        """Return what was measured, what is claimed, and the verdict, each at the point that decides."""

        def rank(row: Mapping[str, Any]) -> tuple[int, float]:
            return ("holds", "undecided", "fails").index(row["verdict"]), row["interval"]["high"]

        rows = [row for row in results["comparisons"] if row["claim"] == self.comparison]
        worst = max((row for row in rows if self.model in ("", row["model"])), key=rank)
        measured = f"{' '.join(mean_and_interval(worst['interval']))} at {worst['point']}"
        claimed = f"< {100 * worst['margin']:g} points"
        return [measured, claimed, decision(worst["interval"], worst["margin"])]


def row_of(rows: Sequence[Mapping[str, Any]], **wanted: object) -> Mapping[str, Any]:
    """Return the row that has the wanted values."""
    return next(row for row in rows if all(row[name] == value for name, value in wanted.items()))


def model(name: str, field: str) -> Callable[[Any], float]:
    """Find a field of a model in the table of Shrinking Bigfoot."""
    return lambda results: float(row_of(results["models"], name=name)[field])


def difference_of_digits(table: str, **wanted: object) -> Callable[[Any], Mapping[str, float]]:
    """Find the difference in a row of a table of the connected digits."""
    return lambda results: combined_interval(row_of(results[table], **wanted)["wer"])


def int8_of_digits(scheme: str) -> Callable[[Any], Mapping[str, float]]:
    """Find int8 minus fp32 of the digits' teacher."""
    return difference_of_digits("int8_minus_fp32", recipe="teacher", precision=f"int8 {scheme}")


def distilled_digits(layers: int) -> Callable[[Any], Mapping[str, float]]:
    """Find the student of the paper's recipe minus the same student without a teacher."""
    return difference_of_digits("distilled_minus_baseline", recipe="paper", layers=layers, baseline="no teacher")


CLAIMS: Sequence[Factor | Difference | EveryPoint] = (
    Factor("4 layers are 4.8 times smaller than LARGE", BIGFOOT, model("student-4", "times_smaller"), 4.8),
    Factor("4 layers are twice as fast as LARGE", BIGFOOT, model("student-4", "times_faster"), 2.0),
    Factor("int8 of the paper's parts is 3.6 times smaller", BIGFOOT, model("large-int8-paper", "times_smaller"), 3.55),
    Difference("int8 of the paper's parts keeps the WER: digits", DIGITS, int8_of_digits("paper"), INT8_MARGIN),
    Difference("int8 of all parts keeps the WER: digits", DIGITS, int8_of_digits("full"), INT8_MARGIN),
    Difference(
        "int8 of all parts keeps the WER: prompts",
        PROMPTS,
        lambda results: results["wer_differences"]["teacher int8 minus teacher"],
        INT8_MARGIN,
    ),
    Difference("a teacher makes a student of 12 layers better: digits", DIGITS, distilled_digits(12)),
    Difference("a teacher makes a student of 4 layers better: digits", DIGITS, distilled_digits(4)),
    Difference(
        "a teacher makes a student of 2 layers better: prompts",
        SEEDS,
        lambda results: combined_interval(results["differences"]["student minus student, CTC alone"]),
    ),
    EveryPoint(
        "a model for S from 1 to 4 is no worse than one for each: digits",
        STOCHASTIC_DIGITS,
        "3: one sampled model is marginally worse, equal updates",
    ),
    EveryPoint(
        "the same after twice the updates: digits", STOCHASTIC_DIGITS, "3: the same, twice the updates for all four"
    ),
    EveryPoint(
        "a model for all S, Q and K, twice the updates: digits",
        STOCHASTIC_DIGITS,
        "3: S, Q and K sampled, twice the updates",
    ),
    EveryPoint(
        "tuned to a point, it is no worse than one for it: digits",
        STOCHASTIC_DIGITS,
        "4: tuning recovers the difference",
    ),
    EveryPoint(
        "a model for S from 1 to 4 is no worse than one for each: sentences",
        STOCHASTIC_SENTENCES,
        "3: one retrofit is marginally worse than fixed ones",
        "retrofit over S, 1,500 updates",
    ),
    EveryPoint(
        "tuned to a point, it is no worse than one for it: sentences",
        STOCHASTIC_SENTENCES,
        "4: tuning recovers the difference",
    ),
)


def lines() -> list[list[str]]:
    """Return the lines of the table, with the path of the results from the repository's root."""
    return [
        [claim.text, *claim.cells(json.loads((ROOT / claim.results).read_text(encoding="utf-8"))), claim.results]
        for claim in CLAIMS
    ]


def markdown() -> str:
    """Format the table for docs/results.md, with links."""

    def link(results: str) -> str:
        path = Path(results)
        return f"[{path.stem if path.parts[0] == 'benchmarks' else path.parts[1]}](../{results})"

    return markdown_table(COLUMNS, [[*line[:-1], link(line[-1])] for line in lines()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markdown", type=Path, help="write the table to this Markdown file")
    args = parser.parse_args()
    print_table("Claims", COLUMNS[:-1], [line[:-1] for line in lines()])
    if args.markdown:
        write_text(args.markdown, markdown())


if __name__ == "__main__":
    main()
