"""Test the claims of "On-demand compute reduction with stochastic wav2vec 2.0" (Vyas et al. 2022) on spoken digits.

    python examples/stochastic/digits.py FSDD_FOLDER            # 5 hours on 2 cores; see README.md
    python examples/stochastic/digits.py FSDD_FOLDER --quick    # every step in minutes, with untrained models

Finished steps are skipped and interrupted trainings continue; remove the output folder to start again.
"""

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from w2v_compress.data.corpora import read_fsdd
from w2v_compress.data.prepare import prepare
from w2v_compress.errors import InputError
from w2v_compress.nn.compression import CompressionSpace
from w2v_compress.papers.stochastic import Comparison, Curve, Measured, speeds

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE.parent), str(HERE)]

from common import write_corpus  # noqa: E402
from experiment import Arm, Experiment, Kind, Run, command_line, rows_to_prepare  # noqa: E402

DATA_SEED = 1
HALF, FULL, TWICE = 1000, 2000, 4000
"""Updates of the models."""
TUNING = 250
"""Updates of tuning to one point."""
STRINGS = 3000
"""Number of training strings."""
SQUEEZED = ("1,1,1", "2,1,1", "3,1,1", "4,1,1")
"""The points of the paper's squeeze factors, without pooling."""
ALL_POINTS = tuple(str(point) for point in CompressionSpace().all_points())
OVER_S = "sampled over S"
OVER_ALL = "sampled over S, Q, K"
SEW = "SEW, S=2"
MARGIN = 0.015
"""Difference in WER up to which a model counts as no worse than another."""


def pinned(point: str) -> str:
    return f"pinned to {point}"


def tuned(point: str) -> str:
    return f"sampled over S, tuned to {point}"


KINDS = {
    **{pinned(point): Kind((f"task.point='{point}'",), (point,)) for point in SQUEEZED},
    OVER_S: Kind(("+task.query_pool=[1]", "+task.key_value_pool=[1]"), SQUEEZED),
    OVER_ALL: Kind((), ALL_POINTS),
    # The published form: upsampling for one factor, from random weights, with an activation.
    SEW: Kind(
        (
            "task.point='2,1,1'",
            "model.w2v_args.model._name=sew",
            "+model.w2v_args.model.squeeze_factor=2",
            "~model.w2v_args.model.learned_upsampling",
            "~model.w2v_args.model.upsampling_activation",
        ),
        ("2,1,1",),
    ),
    **{tuned(point): Kind((f"task.point='{point}'",), (point,), continues=OVER_S) for point in ("2,1,1", "4,1,1")},
}
ARMS = (
    *(Arm(pinned(point), updates) for point in SQUEEZED for updates in (HALF, FULL)),
    *(Arm(kind, updates) for kind in (OVER_S, OVER_ALL) for updates in (HALF, FULL, TWICE)),
    *(Arm(SEW, updates) for updates in (HALF, FULL)),
    *(Arm(pinned(point), FULL + TUNING) for point in ("2,1,1", "4,1,1")),
    *(Arm(tuned(point), TUNING, after=FULL) for point in ("2,1,1", "4,1,1")),
)


def _sampled_against_pinned(claim: str, kind: str, updates: int) -> tuple[Comparison, ...]:
    return tuple(
        Comparison(claim, Arm(kind, updates).name, Arm(pinned(point), FULL).name, point, MARGIN) for point in SQUEEZED
    )


COMPARISONS = (
    *_sampled_against_pinned("3: one sampled model is marginally worse, equal updates", OVER_S, FULL),
    *_sampled_against_pinned("3: the same, twice the updates for all four", OVER_S, TWICE),
    *_sampled_against_pinned("3: S, Q and K sampled, equal updates", OVER_ALL, FULL),
    *_sampled_against_pinned("3: S, Q and K sampled, twice the updates", OVER_ALL, TWICE),
    *(
        Comparison(
            "4: tuning recovers the difference",
            Arm(tuned(point), TUNING, after=FULL).name,
            Arm(pinned(point), FULL + TUNING).name,
            point,
            MARGIN,
        )
        for point in ("2,1,1", "4,1,1")
    ),
    *(
        Comparison("4: tuning gains", Arm(tuned(point), TUNING, after=FULL).name, Arm(OVER_S, FULL).name, point)
        for point in ("2,1,1", "4,1,1")
    ),
    Comparison("linear upsampling is better than SEW's", Arm(pinned("2,1,1"), FULL).name, Arm(SEW, FULL).name, "2,1,1"),
)


def curve(kind: str) -> Curve:
    """Return the models of a kind of training by their updates."""
    return Curve(kind, {arm.updates: arm.name for arm in ARMS if arm.kind == kind}, KINDS[kind].points)


def compare_speeds(counts: Measured, macs: Mapping[str, float]) -> list[dict[str, Any]]:
    """Compare both kinds of sampling with the models pinned to each squeeze factor for `FULL` updates."""
    others = [curve(pinned(point)) for point in SQUEEZED]
    return [row for kind in (OVER_S, OVER_ALL) for row in speeds(counts, curve(kind), others, FULL, macs)]


EXPERIMENT = Experiment(
    recipe=HERE / "digits.yaml",
    kinds=KINDS,
    arms=ARMS,
    comparisons=COMPARISONS,
    speeds=compare_speeds,
    timed=Arm(OVER_ALL, FULL),
    trial_updates=HALF,
    continued_trial_updates=TUNING,
    rates=(0.004, 0.008),
)


def split(index: int) -> str:
    """Return the split of recording `index` of a digit and speaker; empty for the test split of the corpus, 0 to 4."""
    if index < 5:
        return ""
    return "dev" if index < 20 else "train" if index < 45 else "valid"


def prepare_data(source: Path, run: Run) -> None:
    """Prepare strings of one to four digits; those of `dev` and `valid` use each recording once."""
    rows = []
    for recording in read_fsdd(source):
        path = recording.parts[0].resolve()
        index = re.search(r"_(\d+)$", path.stem)
        if index is None:
            raise InputError(f"{path}: its name does not end in _INDEX, as in the Free Spoken Digit Dataset")
        rows.append([str(path), recording.text, split(int(index[1])), recording.speaker])
    listing = write_corpus(run.out / "recordings", rows_to_prepare(run, [row for row in rows if row[2]]))
    print(prepare("fsdd", listing, run.data, join="1:4", join_count=STRINGS, seed=DATA_SEED).summary())


if __name__ == "__main__":
    command_line(
        __doc__,
        EXPERIMENT,
        prepare_data,
        corpus="the Free Spoken Digit Dataset",
        seeds=range(2, 7),
        divisor=500,
    )
