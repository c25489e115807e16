"""Faster training of elastic models: variants of the retrofit at equal compute.

    python examples/stochastic/elastic_training.py SENTENCES_OUT    # an output folder of sentences.py; two hours

The baseline is the model of sentences.py that samples S, Q and K uniformly. Variants change one thing, have its seeds,
data and learning rate, and train until they have computed as many multiply-accumulates. Results are written to
SENTENCES_OUT/elastic_training.json and .md. Finished steps are skipped.
"""

import itertools
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from w2v_compress.data.audio import SAMPLE_RATE
from w2v_compress.data.manifest import read_manifest
from w2v_compress.evaluation.compute import Compute, count_compute
from w2v_compress.evaluation.machine import describe_machine
from w2v_compress.evaluation.report import Table
from w2v_compress.evaluation.wer import ErrorCounts
from w2v_compress.model_file.tensor_file import read_header
from w2v_compress.nn.architecture import Architecture
from w2v_compress.nn.compression import CompressionPoint
from w2v_compress.papers.seeds import combined_cell, difference, mean_and_interval, pool_seeds, rates
from w2v_compress.tasks.point_sampling import PointSampler, PointSamplingConfig

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE.parent), str(HERE)]

from common import count_errors_in_parallel, print_heading, publish_tables, run_in_folder  # noqa: E402
from experiment import Arm, Kind, Run, chosen_rate, continued, train_arms  # noqa: E402
from sentences import ALL_POINTS, EXPERIMENT, OVER_ALL, QUICKSTART, UPDATES  # noqa: E402

POINTS = ("1,1,1", "1,2,2", "2,1,1", "2,2,2", "3,1,1", "4,1,1", "4,2,2")
"""Points of evaluation."""
SHOWN = ("1,1,1", "4,2,2")
SECONDS = 15
"""Audio of a batch, in seconds."""
TWO_PARTS = "+task.points_per_batch=2"
DISTILLATION = "criterion._name=ctc_distillation"
SANDWICH = "+task.sandwich=1"
INPLACE = "+task.inplace_distillation_weight=1"


def weighted(weight: Mapping[int, int]) -> Kind:
    """Return the kind of training that samples all points, with weights by their squeeze factors."""
    weights = [weight[CompressionPoint.parse(point).squeeze] for point in ALL_POINTS]
    points = ",".join(f'"{point}"' for point in ALL_POINTS)
    return Kind((f"+task.points=[{points}]", f"+task.point_weights={weights}".replace(" ", "")), POINTS)


def curriculum(order: str) -> Kind:
    """Return the kind of training that adds points to the sampling in `order` during half of the updates."""
    return Kind((f"+task.curriculum={order}", f"+task.curriculum_updates={UPDATES // 2}"), POINTS)


BASELINE = Arm(OVER_ALL, UPDATES)
UNIFORM = Kind((), POINTS)


def variants(out: Path) -> dict[str, Kind]:
    """Return what is changed; each has the points of evaluation. The teacher's output is cached in `out`."""
    return {
        "centred positions": Kind(("+model.centered_positions=true",), POINTS),
        "larger points more often": weighted({1: 4, 2: 3, 3: 2, 4: 1}),
        "smaller points more often": weighted({1: 1, 2: 2, 3: 3, 4: 4}),
        "full point first": curriculum("full_first"),
        "most squeezed first": curriculum("squeezed_first"),
        "two points in a batch": Kind((TWO_PARTS,), POINTS),
        "moving average of weights": Kind(("ema.store_ema=true", "ema.ema_decay=0.99"), POINTS, ema=True),
        "sandwich": Kind((SANDWICH,), POINTS),
        "sandwich, in-place distillation": Kind((SANDWICH, INPLACE), POINTS),
        "distilled from the recognizer": Kind(
            (
                DISTILLATION,
                f"+criterion.teacher_checkpoint={QUICKSTART / 'teacher' / 'teacher.pt'}",
                "+criterion.temperature=2.0",
                "+criterion.kl_weight=1.0",
                "+criterion.ctc_weight=1.0",
                "+criterion.features_penalty_weight=0.0",
                "+criterion.reduction=valid_frames",
                f"+criterion.teacher_cache={out / 'posteriors'}",
            ),
            POINTS,
        ),
    }


def sampler(kind: Kind) -> PointSampler:
    """Return the sampling of points of a kind of training."""
    cfg = PointSamplingConfig()
    for setting in kind.settings:
        name, _, value = setting.lstrip("+").partition("=")
        if hasattr(cfg, name.removeprefix("task.")):
            setattr(cfg, name.removeprefix("task."), yaml.safe_load(value))
    cfg.seed = 1  # type: ignore[attr-defined]
    return PointSampler(cfg)


def updates_of_equal_compute(kind: Kind, architecture: Architecture, epoch: int) -> int:
    """Return the number of updates that compute as much as those of the baseline.

    A backward pass costs as much as two forward passes. The feature extractor is not trained and has no backward pass.
    A teacher, whose output is cached, has a forward pass at the full point in the first `epoch` updates.
    """

    def compute(point: CompressionPoint) -> Compute:
        return count_compute(architecture, SECONDS * SAMPLE_RATE, point)

    def costs(kind: Kind) -> Iterator[float]:
        points = sampler(kind)
        for update in itertools.count():
            counts = [compute(point) for point in points.points(update, architecture.encoder_layers)]
            cost = sum(each.extractor + 3 * (each.total - each.extractor) for each in counts)
            parts = 2 if TWO_PARTS in kind.settings else 1
            taught = DISTILLATION in kind.settings and update < epoch
            yield cost / parts + (compute(CompressionPoint()).total if taught else 0)

    budget = sum(itertools.islice(costs(UNIFORM), UPDATES))
    return sum(1 for _ in itertools.takewhile(lambda total: total <= budget, itertools.accumulate(costs(kind))))


def over_points(counts: Mapping[tuple[str, str], Sequence[ErrorCounts]], name: str) -> list[ErrorCounts]:
    """Return the errors of a model at all points of evaluation together, by seed."""
    return [pool_seeds(runs) for runs in zip(*(counts[name, point] for point in POINTS), strict=True)]


def compare(run: Run, arms: Sequence[Arm], subset: str) -> dict[str, Any]:
    """Evaluate all arms, the baseline first, and compare them with it: over all points, and at some of them."""
    files = {
        (arm.name, point): [(run.model(arm.name, seed), point) for seed in run.seeds]
        for arm in arms
        for point in POINTS
    }
    counts = count_errors_in_parallel(files, run.data, subset, EXPERIMENT.unit)
    counts |= {(arm.name, "all"): over_points(counts, arm.name) for arm in arms}
    compared: dict[str, Any] = {}
    for name in ("all", *SHOWN):
        compared[name] = {}
        for arm in arms:
            runs = counts[arm.name, name]
            compared[name][arm.kind] = {
                "rate": rates(runs),
                "difference": difference(counts[arms[0].name, name], runs),
            }
    return compared


def run_all(out: Path) -> None:
    """Run all unfinished steps, then print and write the results."""
    rate = chosen_rate(out, OVER_ALL)
    run = continued(out, EXPERIMENT, variants(out), OVER_ALL)
    architecture = read_header(run.model(BASELINE.name, run.seeds[0])).architecture
    audio = sum(utterance.samples for utterance in read_manifest(run.data, "train"))
    epoch = math.ceil(audio / SAMPLE_RATE / SECONDS)
    arms = [
        Arm(name, updates_of_equal_compute(kind, architecture, epoch)) for name, kind in run.experiment.kinds.items()
    ]
    train_arms(run, arms, dict.fromkeys(run.experiment.kinds, rate))
    print_heading("Evaluating on valid and dev")
    results = {
        "command": "python examples/stochastic/elastic_training.py SENTENCES_OUT",
        "seeds": list(run.seeds),
        "learning_rate": rate,
        "updates": {arm.kind: arm.updates for arm in (BASELINE, *arms)},
        **{subset: compare(run, [BASELINE, *arms], subset) for subset in ("valid", "dev")},
        "machine": describe_machine(),
    }
    publish_tables(out / "elastic_training", results, tables(results))


def tables(results: Mapping[str, Any]) -> list[Table]:
    """Return the CER in per cent, and the differences from the baseline in percentage points, as two tables."""

    def cells(kind: str, subset: str, name: str) -> list[str]:
        each = results[subset][name][kind]
        gain = "" if kind == OVER_ALL else combined_cell(each["difference"])
        return [mean_and_interval(each["rate"]["over_strings"])[0], gain]

    def table(title: str, shown: Mapping[str, tuple[str, str]]) -> Table:
        columns = ["training", "updates"]
        for column in shown:
            columns += [column, "minus uniform"]
        lines = []
        for kind, updates in results["updates"].items():
            lines.append([kind, str(updates)])
            for place in shown.values():
                lines[-1] += cells(kind, *place)
        return title, columns, lines

    return [
        table("Elastic training at equal compute", {"valid, mean": ("valid", "all"), "dev, mean": ("dev", "all")}),
        table("The largest and the smallest point", {f"dev, {point}": ("dev", point) for point in SHOWN}),
    ]


if __name__ == "__main__":
    run_in_folder(__doc__, run_all)
