"""Test the claims about elastic models on sentences with an open vocabulary, from the quickstart's trained teacher.

    python examples/stochastic/sentences.py COMMONVOICE_FOLDER            # two hours on 2 cores; see README.md
    python examples/stochastic/sentences.py COMMONVOICE_FOLDER --quick    # every step in minutes

COMMONVOICE_FOLDER contains `utterances.csv` with the columns path, text, split (train, dev), speaker and seconds.
Finished steps are skipped and interrupted trainings continue; remove the output folder to start again.
"""

import csv
import sys
from pathlib import Path

from w2v_compress.data.prepare import prepare
from w2v_compress.errors import InputError
from w2v_compress.papers.stochastic import Comparison

HERE = Path(__file__).resolve().parent
QUICKSTART = HERE.parent / "quickstart"
sys.path += [str(HERE.parent), str(HERE)]

from common import write_corpus  # noqa: E402
from digits import ALL_POINTS, SQUEEZED, pinned  # noqa: E402
from experiment import Arm, Experiment, Kind, Run, command_line, rows_to_prepare  # noqa: E402

MAX_SECONDS = 4.0
HELD_OUT = 10
"""Of the sentences for training, one in so many is in `valid`."""
UPDATES, MORE_UPDATES = 1500, 300
TUNED = ("2,1,1", "4,1,1")
MARGIN = 0.015
"""Difference in CER up to which a model counts as no worse than another."""
OVER_S, OVER_ALL = "retrofit over S", "retrofit over S, Q, K"
CONTINUED = "retrofit over S, continued"


def tuned(point: str) -> str:
    return f"retrofit over S, tuned to {point}"


ONLY_S = ("+task.query_pool=[1]", "+task.key_value_pool=[1]")
KINDS = {
    **{pinned(point): Kind((f"task.point='{point}'",), (point,)) for point in SQUEEZED},
    OVER_S: Kind(ONLY_S, SQUEEZED),
    OVER_ALL: Kind((), ALL_POINTS),
    CONTINUED: Kind(ONLY_S, SQUEEZED, continues=OVER_S),
    **{tuned(point): Kind((f"task.point='{point}'",), (point,), continues=OVER_S) for point in TUNED},
}
ARMS = (
    *(Arm(kind, UPDATES) for kind in (*map(pinned, SQUEEZED), OVER_S, OVER_ALL)),
    *(Arm(pinned(point), UPDATES + MORE_UPDATES) for point in TUNED),
    *(Arm(kind, MORE_UPDATES, after=UPDATES) for kind in (CONTINUED, *map(tuned, TUNED))),
)


def _no_worse(claim: str, model: Arm, baseline: Arm, point: str) -> Comparison:
    return Comparison(claim, model.name, baseline.name, point, MARGIN)


COMPARISONS = (
    *(
        _no_worse("3: one retrofit is marginally worse than fixed ones", Arm(kind, UPDATES), Arm(pinned(s), UPDATES), s)
        for kind in (OVER_S, OVER_ALL)
        for s in SQUEEZED
    ),
    *(
        _no_worse(
            "4: tuning recovers the difference",
            Arm(tuned(point), MORE_UPDATES, UPDATES),
            Arm(pinned(point), UPDATES + MORE_UPDATES),
            point,
        )
        for point in TUNED
    ),
    *(
        Comparison(
            "4: tuning gains over going on with sampling",
            Arm(tuned(point), MORE_UPDATES, UPDATES).name,
            Arm(CONTINUED, MORE_UPDATES, UPDATES).name,
            point,
        )
        for point in TUNED
    ),
)
EXPERIMENT = Experiment(
    recipe=HERE / "sentences.yaml",
    kinds=KINDS,
    arms=ARMS,
    comparisons=COMPARISONS,
    speeds=lambda counts, macs: [],  # one number of updates only
    timed=Arm(OVER_ALL, UPDATES),
    trial_updates=500,
    continued_trial_updates=MORE_UPDATES,
    rates=(0.0001, 0.0003, 0.001),
    unit="characters",
)


def rows_of(folder: Path, splits: dict[str, str]) -> list[list[str]]:
    """Return rows (path, text, split, speaker) of the short utterances of a corpus; `splits` renames its splits."""
    path = folder / "utterances.csv"
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        return [
            [str((folder / row["path"]).resolve()), row["text"], splits[row["split"]], row.get("speaker") or ""]
            for row in rows
            if row["split"] in splits and float(row.get("seconds") or 0) <= MAX_SECONDS
        ]
    except (OSError, KeyError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as utterances with path, text, split and seconds ({error})") from None


def prepare_data(commonvoice: Path, run: Run) -> None:
    """Prepare `train`, `valid` and `dev`, each of prompts and sentences; the prompts of `dev` are the test prompts."""
    rows = rows_of(QUICKSTART / "corpus", {"train": "train", "dev": "valid", "test": "dev"})
    sentences = rows_of(commonvoice, {"train": "train"})
    for index, (path, text, _, speaker) in enumerate(sentences):
        rows.append([path, text, "train" if index % HELD_OUT else "valid", speaker])
    rows += rows_of(commonvoice, {"dev": "dev"})
    listing = write_corpus(run.out / "recordings", rows_to_prepare(run, rows))
    print(prepare("csv", listing, run.data, max_seconds=MAX_SECONDS).summary())


if __name__ == "__main__":
    command_line(
        __doc__,
        EXPERIMENT,
        prepare_data,
        corpus="sentences of Common Voice",
        seeds=range(1, 4),
        divisor=200,
        settings=(f"model.init_checkpoint={QUICKSTART / 'teacher' / 'teacher.pt'}",),
    )
