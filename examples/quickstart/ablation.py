"""Compare the student trained with a teacher and without one, and with different losses, over five seeds.

    python examples/quickstart/ablation.py    # two hours on 2 cores; goes on in the output folder of `make demo`

Trains the two-layer student of run.py with each loss for 800 updates, and with and without a teacher for 3,000, when it
has stopped improving. The losses and the numbers of updates were fixed before the first training, and all use the
learning rate of student.yaml. WER is that of greedy decoding in fp32 on the test prompts. Results are written to
out/ablation.json and .md. Finished steps are skipped.
"""

import sys
from pathlib import Path
from typing import Any

from w2v_compress.data.prepare import prepare
from w2v_compress.evaluation.machine import describe_machine
from w2v_compress.evaluation.report import Table
from w2v_compress.evaluation.wer import ErrorCounts
from w2v_compress.papers.seeds import cells, combined_cell, difference, rates

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE.parent), str(HERE)]

from common import count_errors_in_parallel, file_name, publish_tables, run_in_folder  # noqa: E402
from run import Student, Training, train_missing  # noqa: E402

SEEDS = (1, 2, 3, 4, 5)
UPDATES, CONVERGED = 800, 3000
ALONE, RECIPE = "CTC alone", "posteriors (T = 2) and CTC"
LOSSES: dict[str, tuple[str, ...]] = {
    ALONE: ("criterion.kl_weight=0",),
    RECIPE: (),
    "posteriors (T = 1) and CTC": ("criterion.temperature=1",),
    "posteriors (T = 4) and CTC": ("criterion.temperature=4",),
    "posteriors (T = 1): the paper's loss": (
        "criterion.temperature=1",
        "criterion.ctc_weight=0",
        "criterion.features_penalty_weight=1",
    ),
    "posteriors (T = 2)": ("criterion.ctc_weight=0",),
    "posteriors (T = 2), CTC and hidden states": ("+criterion.hidden_weight=1",),
    "CTC and hidden states": ("criterion.kl_weight=0", "+criterion.hidden_weight=1"),
}
"""Overrides of student.yaml for each loss."""
SYSTEMS: dict[str, Student] = {
    **{f"{loss}, {UPDATES} updates": Student("student.yaml", UPDATES, LOSSES[loss]) for loss in LOSSES},
    **{f"{loss}, {CONVERGED:,} updates": Student("student.yaml", CONVERGED, LOSSES[loss]) for loss in (ALONE, RECIPE)},
}


def baseline(system: str) -> str:
    """Return the system without a teacher that has as many updates as `system`."""
    return next(
        name
        for name, student in SYSTEMS.items()
        if name.startswith(ALONE) and student.updates == SYSTEMS[system].updates
    )


def run(out: Path) -> None:
    """Train what is missing, then print and write the results."""
    data, models = out / "data", out / "ablation"
    if not (data / "test.tsv").exists():
        print(prepare("csv", HERE / "corpus", data).summary())
    models.mkdir(exist_ok=True)

    def path(name: str, seed: int) -> Path:
        return models / f"{file_name(name)}-seed-{seed}.safetensors"

    train_missing(
        [
            Training(f"{name}, seed {seed}", student, path(name, seed), seed)
            for seed in SEEDS
            for name, student in SYSTEMS.items()
        ],
        data,
    )
    files = {name: [(path(name, seed), None) for seed in SEEDS] for name in SYSTEMS}
    results = summarize(count_errors_in_parallel(files, data, "test"))
    publish_tables(out / "ablation", results, tables(results))


def summarize(counts: dict[str, list[ErrorCounts]]) -> dict[str, Any]:
    """Return the WER of each system, and its difference from CTC alone with as many updates."""
    return {
        "command": "python examples/quickstart/ablation.py",
        "seeds": list(SEEDS),
        "systems": {
            name: {
                "updates": SYSTEMS[name].updates,
                "settings": list(SYSTEMS[name].overrides),
                "wer": rates(runs),
                "difference": None if name == baseline(name) else difference(counts[baseline(name)], runs),
            }
            for name, runs in counts.items()
        },
        "machine": describe_machine(),
    }


def tables(results: dict[str, Any]) -> list[Table]:
    """Return the results as a table; the interval of a difference is that over seeds and prompts together."""
    lines = []
    for name, each in results["systems"].items():
        gain = "" if each["difference"] is None else combined_cell(each["difference"])
        lines.append([name, *cells(each["wer"]), gain])
    return [("Losses of distillation", ["loss", "WER, %", "over seeds", "over prompts", "minus CTC alone"], lines)]


if __name__ == "__main__":
    run_in_folder(__doc__, run, HERE / "out")
