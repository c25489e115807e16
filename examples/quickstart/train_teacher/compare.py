"""Compare settings for training the teacher: short trainings from the same checkpoint, with the CER on each dev set.

    python compare.py OUT ../teacher/teacher.pt                  # all trials; OUT is a folder of train_teacher.sh
    python compare.py OUT ../teacher/teacher.pt "squeeze 2"      # some

Each trial decays its learning rate at the end, so that high rates are not at a disadvantage. The numbers of updates
give every trial about the same time on one machine (an Intel Xeon with AMX). Trials run in parallel, on one core each.
Finished trials are skipped. The results of all trials are written to OUT/ledger.json and OUT/ledger.md; ../teacher has
those of the shipped teacher.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from rich.progress import Progress

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent.parent))

from common import (  # noqa: E402
    count_errors,
    file_name,
    finished_trials,
    one_line_errors,
    run_in_parallel,
    train,
    trial_table,
)

from w2v_compress.evaluation.machine import describe_machine  # noqa: E402
from w2v_compress.files import write_json, write_text  # noqa: E402
from w2v_compress.interop.fairseq_checkpoint import export_checkpoint  # noqa: E402
from w2v_compress.model_file.tensor_file import read_header  # noqa: E402

AUTOCAST = ["model.autocast=true"]
SQUEEZE = [*AUTOCAST, "task.point='2,1,1'"]
UNMASKED = ["model.apply_mask=false", "model.layerdrop=0"]
STRAIGHT = [*AUTOCAST, *UNMASKED]
INTERMEDIATE = ["criterion._name=intermediate_ctc", "+criterion.intermediate_layers=[3]"]
HALF_RATE = "optimization.lr=[0.0005]"
LAST_STAGE = [*AUTOCAST, *INTERMEDIATE, "optimizer._name=muon", "model.layerdrop=0", "dataset.train_subset=last"]
TRIALS: dict[str, tuple[int, list[str]]] = {
    "none": (0, []),
    "squeeze 2": (800, SQUEEZE),
    "squeeze 2, unmasked": (800, [*SQUEEZE, *UNMASKED]),
    "squeeze 2, unmasked, half the rate": (800, [*SQUEEZE, *UNMASKED, HALF_RATE]),
    "squeeze 1, unmasked, half the rate": (480, [*STRAIGHT, HALF_RATE]),
    "squeeze 1, unmasked": (480, STRAIGHT),
    "squeeze 1, unmasked, frozen extractor": (640, [*STRAIGHT, "+model.feature_grad_mult=0"]),
    "squeeze 1, unmasked, intermediate CTC": (480, [*STRAIGHT, *INTERMEDIATE]),
    "squeeze 1, unmasked, fp32": (300, UNMASKED),
    "muon, subset last": (480, LAST_STAGE),
}
"""Updates and settings of each trial; without updates, the checkpoint that the others start from."""
COMMON = ["dataset.max_tokens=960000", "dataset.train_subset=mixed", "model.apply_mask=true", "model.layerdrop=0.05"]
COMMON.append("optimizer._name=adam")  # the trials are older than muon in teacher.yaml
DECAY = 0.3
"""Part of the updates with a decaying learning rate."""


def run_trial(name: str, out: Path, start: Path, progress: Progress) -> None:
    """Train and evaluate one trial, and write its row of the ledger; do nothing if that exists."""
    updates, settings = TRIALS[name]
    folder = out / "trials" / file_name(name)
    row_file, model = folder / "row.json", folder / "model.safetensors"
    if row_file.exists():
        return
    began = time.monotonic()
    checkpoint = _trained(name, out, start, folder, progress) if updates else start
    minutes = (time.monotonic() - began) / 60
    export_checkpoint(checkpoint, model)
    row = {
        "trial": name,
        "updates": updates,
        "settings": settings,
        "minutes": minutes,
        "cer": dev_cer(model, out / "mix"),
    }
    write_json(row_file, row)


def _trained(name: str, out: Path, start: Path, folder: Path, progress: Progress) -> Path:
    """Train one trial in `folder`, and return its last checkpoint."""
    updates, settings = TRIALS[name]
    warmup, decay = updates // 20, int(updates * DECAY)
    overrides = [f"task.data={out / 'mix'}", f"+model.init_checkpoint={start}", "~model.w2v_args", "common.cpu=true"]
    overrides += [f"lr_scheduler.warmup_steps={warmup}", f"lr_scheduler.hold_steps={updates - warmup - decay}"]
    overrides += [f"lr_scheduler.decay_steps={decay}", "dataset.validate_interval_updates=1000000", *COMMON, *settings]
    task = progress.add_task(f"Training: {name}", total=updates)
    return train(
        HERE / "teacher.yaml",
        overrides,
        folder,
        updates,
        threads=1,
        progress=lambda done: progress.update(task, completed=done),
    )


def dev_cer(model: Path, mix: Path) -> dict[str, float]:
    """Return the CER of `model` on each dev set of `mix`, at the compression point that it was trained for."""
    point = str(read_header(model).space.largest)
    subsets = sorted(path.stem for path in mix.glob("dev*.tsv"))
    return {subset: count_errors(model, mix, subset, point, "characters").rate for subset in subsets}


def markdown(rows: list[dict[str, Any]]) -> str:
    """Format the ledger as a table."""
    return trial_table(rows, lambda row: {f"CER, {subset}": rate for subset, rate in row["cer"].items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder with `mix` of make_mix.py, for trials and ledger")
    parser.add_argument("start", type=Path, help="checkpoint that every trial starts from")
    parser.add_argument("trials", nargs="*", help=f"trials to run: {', '.join(TRIALS)} (default: all)")
    args = parser.parse_args()
    if unknown := [name for name in args.trials if name not in TRIALS]:
        parser.error(f"unknown trial {unknown[0]!r}; the trials are {', '.join(TRIALS)}")
    out = args.out.resolve()
    with one_line_errors():
        start = args.start.resolve()
        run_in_parallel(run_trial, [(name, out, start) for name in args.trials or TRIALS])
    rows = finished_trials(out / "trials", TRIALS)
    write_json(out / "ledger.json", {"start": args.start.name, "trials": rows, "machine": describe_machine()})
    write_text(out / "ledger.md", markdown(rows))
    print(markdown(rows))


if __name__ == "__main__":
    main()
