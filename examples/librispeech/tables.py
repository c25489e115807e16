"""Write Markdown tables of the sweeps in a folder: python tables.py SWEEPS OUT.md

One table per test set, with WER, time and multiply-accumulates of each model at each point, sorted by time.
"""

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from w2v_compress.errors import InputError
from w2v_compress.evaluation.report import compute_device, markdown_table
from w2v_compress.evaluation.wer import Interval
from w2v_compress.files import write_text

sys.path.append(str(Path(__file__).resolve().parent.parent))

from common import one_line_errors

COLUMNS = ["model", "point", "WER", "against its largest point", "real-time factor", "GMAC per s", "speed-up, counted"]


def rows_of(model: str, sweep: dict[str, Any]) -> list[tuple[float, list[str]]]:
    """Return the real-time factor and the table cells of each point."""
    rows = []
    for point in sweep["points"]:
        wer, difference = Interval(**point["wer"]), Interval(**point["wer_difference"])
        speed_up = f"{point['speed_up']:.2f}, {point['counted_speed_up']:.2f}"
        cost = [f"{point['real_time_factor']:.4f}", f"{1e-9 * point['macs_per_second']:.2f}", speed_up]
        rows.append((point["real_time_factor"], [model, point["point"], wer.percent(), difference.percent(), *cost]))
    return rows


def tables(folder: Path) -> str:
    """Format all sweeps in `folder` as Markdown.

    Raises:
        InputError: There is no sweep, or a file is not the JSON of a sweep.
    """
    found: dict[str, list[tuple[float, list[str]]]] = defaultdict(list)
    machines: dict[str, set[str]] = defaultdict(set)
    for path in sorted(folder.glob("*.json")):
        try:
            sweep = json.loads(path.read_text(encoding="utf-8"))
            subset, machine = sweep["subset"], sweep["machine"]
            found[subset] += rows_of(Path(sweep["model"]).parent.name, sweep)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: is not a file written by `w2v-compress sweep --json` ({error!r})") from None
        machines[subset].add(f"{compute_device(machine)}, {sweep['precision']}")
    if not found:
        raise InputError(f"{folder}: contains no sweep; run sweep.sh first")
    parts = []
    for subset, rows in found.items():
        lines = [cells for _, cells in sorted(rows)]
        parts.append(
            f"## {subset}\n\n{markdown_table(COLUMNS, lines)}\nTimes: {'; '.join(sorted(machines[subset]))}.\n"
        )
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "sweeps", type=Path, metavar="SWEEPS", help="folder of files written by `w2v-compress sweep --json`"
    )
    parser.add_argument("out", type=Path, metavar="OUT.md", help="the Markdown file to write")
    arguments = parser.parse_args()
    with one_line_errors():
        text = tables(arguments.sweeps)
        write_text(arguments.out, text)
        print(text)


if __name__ == "__main__":
    main()
