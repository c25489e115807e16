"""Whether pre-training on the digits themselves is worth while, by the diversity of its codes.

    python examples/stochastic/pretraining.py DIGITS_OUT    # an output folder of digits.py; half an hour on 2 cores

Pre-trains the network of digits.py on its training audio with several weights of the diversity loss, and fine-tunes
each at S = 1 as the trials of digits.py do from random weights: same seed, updates and learning rates. Reports the
perplexity of the codes, of at most 64, and the WER on `valid`. The claims are tested from pre-training only if it beats
random weights here. Results are written to DIGITS_OUT/pretraining.json and .md. Finished steps are skipped.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.progress import Progress

from w2v_compress.evaluation.machine import describe_machine
from w2v_compress.evaluation.report import Table
from w2v_compress.papers.seeds import difference, mean_and_interval

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE.parent), str(HERE)]

from common import count_errors, publish_tables, run_in_folder, run_in_parallel, train  # noqa: E402
from digits import EXPERIMENT, pinned  # noqa: E402
from experiment import TRIAL_SEED, Kind, Run, continued, run_trial  # noqa: E402

UPDATES = 2000
"""Updates of the pre-training."""
WEIGHTS = (0.1, 1.0, 10.0)
"""Weights of the diversity loss; 0.1 is that of wav2vec 2.0."""
POINT = "1,1,1"
SCRATCH = pinned(POINT)


def pretrained(weight: float) -> str:
    return f"pre-trained, diversity {weight:g}"


def checkpoint(out: Path, weight: float) -> Path:
    """Return the checkpoint of a pre-training."""
    return out / "training" / f"pretraining-{weight:g}" / "checkpoint_last.pt"


def kinds(out: Path) -> dict[str, Kind]:
    """Return the fine-tunings of the pre-trained networks, and the training from random weights."""
    started = {
        pretrained(weight): Kind(
            (
                "model._name=compressed_ctc",
                "~model.w2v_args",
                f"+model.w2v_path={checkpoint(out, weight)}",
                f"task.point='{POINT}'",
            ),
            (POINT,),
        )
        for weight in WEIGHTS
    }
    return {SCRATCH: EXPERIMENT.kinds[SCRATCH], **started}


def perplexity(log: Path) -> float:
    """Return the perplexity of the chosen codes at the end of a pre-training, from the log of fairseq."""
    lines = [
        line[line.index("{") :] for line in log.read_text(encoding="utf-8").splitlines() if "code_perplexity" in line
    ]
    return float(next(value for key, value in json.loads(lines[-1]).items() if key.endswith("code_perplexity")))


def train_chain(run: Run, weight: float, progress: Progress) -> None:
    """Pre-train with one weight of the diversity loss, then fine-tune with each learning rate."""
    last = checkpoint(run.out, weight)
    updates = max(4, UPDATES // run.divisor)
    finished = last.with_name("finished")
    if not finished.exists():
        bar = progress.add_task(pretrained(weight), total=updates)
        overrides = [f"common.seed={TRIAL_SEED}", f"task.data={run.data}", f"criterion.loss_weights=[{weight},1]"]
        train(
            HERE / "pretraining.yaml",
            overrides + [setting for setting in run.settings if setting.startswith("common.")],
            last.parent,
            updates,
            threads=1,
            progress=lambda count: progress.update(bar, completed=count),
        )
        progress.remove_task(bar)
        finished.touch()
    for rate in run.experiment.rates:
        run_trial(run, pretrained(weight), rate, None, progress)


def run_all(out: Path) -> None:
    """Run all unfinished steps, then print and write the results."""
    run = continued(out, EXPERIMENT, kinds(out), SCRATCH)
    run_in_parallel(lambda weight, progress: train_chain(run, weight, progress), [(weight,) for weight in WEIGHTS])
    best = {}
    for kind in run.experiment.kinds:
        rates = run.experiment.rates
        counts = [count_errors(run.trial(kind, rate), run.data, "valid", POINT) for rate in rates]
        best[kind] = min(zip(counts, rates, strict=True), key=lambda pair: pair[0].rate)
    codes = {pretrained(weight): perplexity(checkpoint(out, weight).with_name("log.txt")) for weight in WEIGHTS}
    results = {
        "command": "python examples/stochastic/pretraining.py DIGITS_OUT",
        "seed": TRIAL_SEED,
        "updates": UPDATES // run.divisor,
        "models": [
            {
                "model": kind,
                "code_perplexity": codes.get(kind),
                "rate": rate,
                "wer": counts.rate,
                "difference": difference([best[SCRATCH][0]], [counts])["over_strings"],
            }
            for kind, (counts, rate) in best.items()
        ],
        "machine": describe_machine(),
    }
    publish_tables(out / "pretraining", results, tables(results))


def tables(results: Mapping[str, Any]) -> list[Table]:
    """Return the results as a table: WER in per cent, differences in percentage points."""
    lines = [
        [
            "random weights" if row["model"] == SCRATCH else row["model"],
            "" if row["code_perplexity"] is None else f"{row['code_perplexity']:.1f}",
            f"{row['rate']:g}",
            f"{100 * row['wer']:.2f}",
            "" if row["model"] == SCRATCH else " ".join(mean_and_interval(row["difference"])),
        ]
        for row in results["models"]
    ]
    columns = ["start", "perplexity of codes", "rate", "WER on valid, %", "minus random weights"]
    return [("Pre-training on the digits", columns, lines)]


if __name__ == "__main__":
    run_in_folder(__doc__, run_all)
