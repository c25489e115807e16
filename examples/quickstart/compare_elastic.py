"""Compare recipes for the elastic student on the dev prompts.

    python examples/quickstart/compare_elastic.py                  # all trials, ten minutes for each two
    python examples/quickstart/compare_elastic.py "four layers" "sandwich" --seeds 1 2 3

Trials change the settings of elastic.yaml and run in parallel, on one core each. Compare those of about the same time,
or of the same number of updates. All are evaluated at the points of elastic.yaml, also at those that a trial does not
train; with several seeds, figures are means. Finished trials are skipped. Results are written to
out/elastic-trials/trials.json and .md; results/ has those behind the recipe.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.progress import Progress

from w2v_compress.data.prepare import prepare
from w2v_compress.evaluation.machine import describe_machine
from w2v_compress.files import write_json, write_text

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE.parent), str(HERE)]

from common import count_errors, file_name, one_line_errors, run_in_parallel, trial_table  # noqa: E402
from run import POINTS, SEED, Student, Training  # noqa: E402

SANDWICH = "+task.sandwich=1"
FULL_POINT_OFTEN = "+task.point_weights=[5,1,1,1,1,1]"  # in half of the updates
LOWER_RATE = "optimization.lr=[0.0007]"
FIVE_LAYERS = "model.layers=[0,1,2,3,5]"
TRIALS: dict[str, tuple[int, list[str]]] = {
    "four layers": (800, []),
    "five layers": (730, [FIVE_LAYERS]),
    "six layers": (670, ["model.layers=[0,1,2,3,4,5]"]),
    "squeezed only": (800, ['task.points=["1,1,1","2,1,1","3,1,1","4,1,1"]']),
    "four layers, longer": (2000, []),
    "five layers, longer": (2000, [FIVE_LAYERS]),
    "upper layers": (800, ["model.layers=[0,3,4,5]"]),
    "lower layers": (800, ["model.layers=[0,1,2,3]"]),
    "four layers, 1,300 updates": (1300, []),
    "seven tenths of the rate": (1300, [LOWER_RATE]),
    "full point in half of the updates": (1300, [FULL_POINT_OFTEN]),
    "full point in half, lower rate": (1300, [FULL_POINT_OFTEN, LOWER_RATE]),
    "full point first": (1300, ["+task.curriculum=full_first", "+task.curriculum_updates=600"]),
    "two points in a batch": (1300, ["+task.points_per_batch=2"]),
    "half the rate": (1300, ["optimization.lr=[0.0005]"]),
    "centred positions": (1300, ["+model.centered_positions=true"]),
    "muon": (800, ["optimizer._name=muon"]),
    "sandwich": (320, [SANDWICH]),
    "sandwich, in-place distillation": (320, [SANDWICH, "+task.inplace_distillation_weight=1"]),
}
"""Updates and settings of each trial."""


def row_file(trials: Path, name: str, seed: int) -> Path:
    """Return the file with the results of a trial with one seed."""
    return trials / file_name(name if seed == SEED else f"{name} seed {seed}") / "row.json"


def run_trial(name: str, seed: int, data: Path, trials: Path, progress: Progress) -> None:
    """Train and evaluate one trial, and write its row; do nothing if that exists."""
    updates, settings = TRIALS[name]
    file = row_file(trials, name, seed)
    model = file.with_name("model.safetensors")
    if file.exists():
        return
    began = time.monotonic()
    Training(name, Student("elastic.yaml", updates, tuple(settings)), model, seed).run(data, progress)
    minutes = (time.monotonic() - began) / 60
    rates = {
        unit: {point: count_errors(model, data, "dev", point, unit).rate for point in POINTS}
        for unit in ("words", "characters")
    }
    write_json(file, {"trial": name, "updates": updates, "settings": settings, "minutes": minutes, **rates})


def finished_trials(trials: Path) -> list[dict[str, Any]]:
    """Return the rows of all finished trials, those with several seeds with the mean of each figure."""
    rows = []
    for name in TRIALS:
        files = {
            int(path.parent.name.rpartition("-")[2]): path for path in trials.glob(f"{file_name(name)}-seed-*/row.json")
        }
        if (first := row_file(trials, name, SEED)).exists():
            files[SEED] = first
        if files:
            seeds = {seed: json.loads(files[seed].read_text(encoding="utf-8")) for seed in sorted(files)}
            rows.append(mean_row(seeds))
    return rows


def mean_row(seeds: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the row of a trial from those of its seeds, which it also has."""
    rows = list(seeds.values())
    means = {
        unit: {point: statistics.fmean(row[unit][point] for row in rows) for point in POINTS}
        for unit in ("words", "characters")
    }
    minutes = statistics.fmean(row["minutes"] for row in rows)
    by_seed = {str(seed): {unit: row[unit] for unit in means} for seed, row in seeds.items()}
    return {**rows[0], "minutes": minutes, **means, "seeds": by_seed}


def markdown(rows: list[dict[str, Any]]) -> str:
    """Format the CER of the trials at each point, and the mean WER over the points, as a table."""
    rows = [{**row, "trial": _with_seeds(row)} for row in rows]

    def rates(row: Mapping[str, Any]) -> dict[str, float]:
        cer = {f"CER, {point}": rate for point, rate in row["characters"].items()}
        return cer | {"mean WER": sum(row["words"].values()) / len(row["words"])}

    return trial_table(rows, rates)


def _with_seeds(row: Mapping[str, Any]) -> str:
    """Return the name of a trial with the number of its seeds, if there are several."""
    seeds = len(row.get("seeds", ()))
    return f"{row['trial']}, {seeds} seeds" if seeds > 1 else row["trial"]


def run(names: list[str], seeds: list[int], out: Path) -> None:
    """Run the trials, then print and write the results of all finished ones."""
    data, trials = out / "data", out / "elastic-trials"
    if not (data / "dev.tsv").exists():
        print(prepare("csv", HERE / "corpus", data).summary())
    run_in_parallel(run_trial, [(name, seed, data, trials) for name in names for seed in seeds])
    rows = finished_trials(trials)
    write_json(trials / "trials.json", {"seed": SEED, "trials": rows, "machine": describe_machine()})
    write_text(trials / "trials.md", markdown(rows))
    print(markdown(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trials", nargs="*", help=f"trials to run: {', '.join(TRIALS)} (default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[SEED], help="one or more seeds (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=HERE / "out", help="output folder (default: %(default)s)")
    args = parser.parse_args()
    if unknown := [name for name in args.trials if name not in TRIALS]:
        parser.error(f"unknown trial {unknown[0]!r}; the trials are {', '.join(TRIALS)}")
    with one_line_errors():
        run(args.trials or list(TRIALS), args.seeds, args.out.resolve())


if __name__ == "__main__":
    main()
