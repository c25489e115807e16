"""Train and compare the arms of an experiment: choose learning rates, train with several seeds, evaluate, publish."""

import argparse
import dataclasses
import itertools
import json
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.progress import Progress

from w2v_compress.data.audio import SAMPLE_RATE, read_audio
from w2v_compress.data.manifest import read_manifest
from w2v_compress.evaluation.compute import count_compute
from w2v_compress.evaluation.machine import describe_machine, interleaved_latency
from w2v_compress.evaluation.report import read_report
from w2v_compress.interop.fairseq_checkpoint import export_checkpoint
from w2v_compress.papers.stochastic import Comparison, Measured, markdown, plot, summarize

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))

from common import (  # noqa: E402
    Unit,
    count_errors,
    count_errors_in_parallel,
    file_name,
    load_in_file_precision,
    one_line_errors,
    print_heading,
    publish,
    require_same_settings,
    run_in_parallel,
    timed,
    train,
)

TRIAL_SEED = 0
"""Seed of the trials of learning rates; none of the reported seeds."""
TIMED_SECONDS = 10
METRICS: dict[Unit, str] = {"words": "WER", "characters": "CER"}


@dataclass(frozen=True)
class Kind:
    """A way to train: settings, the points of evaluation, and the kind that it continues, if any."""

    settings: tuple[str, ...]
    """Overrides of the recipe."""
    points: tuple[str, ...]
    continues: str = ""
    ema: bool = False
    """Whether the moving average of the weights is exported, which the settings must store."""
    rates: tuple[float, ...] = ()
    """Learning rates to choose from, if others than those of the experiment."""


@dataclass(frozen=True)
class Arm:
    """A kind of training for a number of updates, after those of the arm that it continues."""

    kind: str
    updates: int
    after: int = 0

    @property
    def name(self) -> str:
        """Such as `pinned to 2,1,1, 4,000 updates`."""
        return f"{self.kind}, {self.updates + self.after:,} updates"


@dataclass(frozen=True)
class Experiment:
    """What is compared, fixed before anything is trained."""

    recipe: Path
    """Configuration of fairseq-hydra-train that all arms share."""
    kinds: Mapping[str, Kind]
    arms: tuple[Arm, ...]
    comparisons: tuple[Comparison, ...]
    speeds: Callable[[Measured, Mapping[str, float]], list[dict[str, Any]]]
    """Compares the speeds of training, from errors and from the multiply-accumulates by point."""
    timed: Arm
    """The arm whose points are timed."""
    trial_updates: int
    continued_trial_updates: int
    rates: tuple[float, ...]
    """Learning rates to choose from."""
    unit: Unit = "words"
    """What errors are counted in."""

    def start(self, arm: Arm) -> Arm | None:
        """Return the arm that `arm` continues."""
        continued = self.kinds[arm.kind].continues
        return Arm(continued, arm.after) if continued else None

    def rates_of(self, kind: str) -> tuple[float, ...]:
        """Return the learning rates that are tried for a kind of training."""
        return self.kinds[kind].rates or self.rates


@dataclass(frozen=True)
class Run:
    """An experiment, its output folder, and the seeds."""

    experiment: Experiment
    out: Path
    seeds: tuple[int, ...]
    divisor: int = 1
    """Divisor of all numbers of updates, for quick runs."""
    settings: tuple[str, ...] = field(default=())
    """Overrides of the recipe for all arms, such as the checkpoint that they start from."""

    @property
    def data(self) -> Path:
        """The manifests, with the subsets `train`, `valid` and `dev`."""
        return self.out / "data"

    def model(self, name: str, seed: int) -> Path:
        """Return the model file of an arm or trial."""
        return self.out / f"{file_name(f'{name} seed {seed}')}.safetensors"

    def trial(self, kind: str, rate: float) -> Path:
        """Return the model file of the trial of a learning rate."""
        return self.model(f"trial {kind} rate {rate}", TRIAL_SEED)


def rows_to_prepare(run: Run, rows: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """Return the rows (path, text, split, speaker) to prepare: all, or a tenth of `valid` and `dev` in a quick run."""
    if run.divisor == 1:
        return list(rows)
    kept, seen = [], Counter[str]()
    for row in rows:
        if row[2] == "train" or seen[row[2]] % 10 == 0:
            kept.append(row)
        seen[row[2]] += 1
    return kept


def train_model(
    run: Run, kind: str, updates: int, rate: float, seed: int, start: Path | None, model: Path, progress: Progress
) -> None:
    """Train and export one model, from the start of the recipe or from the model file `start`, unless it exists."""
    if model.exists():
        return
    overrides = [f"common.seed={seed}", f"task.data={run.data}", f"optimization.lr=[{rate}]", *run.settings]
    overrides += run.experiment.kinds[kind].settings
    if start is not None:
        overrides += [f"++model.init_checkpoint={start}", "++model.w2v_args=null"]
    updates = max(4, updates // run.divisor)  # tri_stage needs an update in each stage
    bar = progress.add_task(model.stem, total=updates)
    checkpoint = train(
        run.experiment.recipe,
        overrides,
        run.out / "training" / model.stem,
        updates,
        threads=1,
        progress=lambda count: progress.update(bar, completed=count),
    )
    export_checkpoint(checkpoint, model, ema=run.experiment.kinds[kind].ema)
    progress.remove_task(bar)


def trial_error(run: Run, kind: str, rate: float) -> float:
    """Return the error rate on `valid` of a trial, the mean over the points of its kind."""
    rates = [
        count_errors(run.trial(kind, rate), run.data, "valid", point, run.experiment.unit).rate
        for point in run.experiment.kinds[kind].points
    ]
    return statistics.fmean(rates)


def run_trial(run: Run, kind: str, rate: float, start: Path | None, progress: Progress) -> None:
    """Train one trial of a learning rate, and count its errors."""
    updates = run.experiment.trial_updates if start is None else run.experiment.continued_trial_updates
    train_model(run, kind, updates, rate, TRIAL_SEED, start, run.trial(kind, rate), progress)
    trial_error(run, kind, rate)


def try_rates(run: Run) -> dict[str, dict[float, float]]:
    """Return the error rate on `valid` of each learning rate, by kind.

    The trials of a kind that continues another start from a model with as many updates as the reported ones start from.
    """
    experiment = run.experiment
    found: dict[str, dict[float, float]] = {}

    def try_all(starts: Mapping[str, Path | None]) -> None:
        trials = [(kind, rate, start) for kind, start in starts.items() for rate in experiment.rates_of(kind)]
        run_in_parallel(partial(run_trial, run), trials)
        found.update(
            {kind: {rate: trial_error(run, kind, rate) for rate in experiment.rates_of(kind)} for kind in starts}
        )

    started = {arm.kind: start for arm in experiment.arms if (start := experiment.start(arm))}
    try_all({kind: None for kind in experiment.kinds if kind not in started})
    rates = {kind: best_rate(errors) for kind, errors in found.items()}
    train_arms(dataclasses.replace(run, seeds=(TRIAL_SEED,)), list(dict.fromkeys(started.values())), rates)
    try_all({kind: run.model(start.name, TRIAL_SEED) for kind, start in started.items()})
    return found


def best_rate(trials: Mapping[float, float]) -> float:
    """Return the learning rate with the lowest error rate."""
    return min(trials, key=lambda rate: trials[rate])


def train_arms(run: Run, arms: Sequence[Arm], rates: Mapping[str, float]) -> None:
    """Train arms with all seeds in parallel, seed by seed; those that continue others after these."""

    def train_arm(arm: Arm, seed: int, progress: Progress) -> None:
        start = run.experiment.start(arm)
        model = None if start is None else run.model(start.name, seed)
        train_model(run, arm.kind, arm.updates, rates[arm.kind], seed, model, run.model(arm.name, seed), progress)

    for continuing in (False, True):
        some = [arm for arm in arms if bool(run.experiment.start(arm)) == continuing]
        run_in_parallel(train_arm, [(arm, seed) for seed, arm in itertools.product(run.seeds, some)])


def measure_costs(run: Run) -> list[dict[str, Any]]:
    """Measure compute and time of one arm at each of its points, on utterances joined to `TIMED_SECONDS` of audio."""
    audio = np.concatenate([read_audio(utterance.path) for utterance in read_manifest(run.data, "dev")])
    audio = audio[: TIMED_SECONDS * SAMPLE_RATE]
    seconds = len(audio) / SAMPLE_RATE
    print_heading(f"Timing: {seconds:.0f} s of audio at each point, interleaved, median of 9 runs")
    recognizer = load_in_file_precision(run.model(run.experiment.timed.name, run.seeds[0]))
    points = recognizer.header.space.all_points()
    recognizer.engine.keep_points(len(points))
    latency = interleaved_latency(
        {
            str(point): lambda at=point: recognizer.transcribe(audio, SAMPLE_RATE, point=at)  # type: ignore[misc]
            for point in points
        }
    )
    architecture = recognizer.header.architecture
    return [
        {
            "point": str(point),
            "macs_per_second": count_compute(architecture, len(audio), point).total / seconds,
            "milliseconds_per_second": latency[str(point)] / seconds,
        }
        for point in points
    ]


def run_all(run: Run, prepare_data: Callable[[], None], settings: Mapping[str, Any], command: str) -> None:
    """Run all unfinished steps, then publish the results. `settings` are those of the data."""
    experiment = run.experiment
    run.out.mkdir(parents=True, exist_ok=True)
    require_same_settings(
        run.out,
        {
            **settings,
            "divisor": run.divisor,
            "rates": experiment.rates,
            "overrides": run.settings,
            "kinds": {name: dataclasses.asdict(kind) for name, kind in experiment.kinds.items()},
            "recipe": yaml.safe_load(experiment.recipe.read_text(encoding="utf-8")),
        },
    )
    if not (run.data / "train.tsv").exists():
        prepare_data()
    with timed(run.out, "learning rates"):
        trials = try_rates(run)
    with timed(run.out, "training"):
        train_arms(run, experiment.arms, {kind: best_rate(rates) for kind, rates in trials.items()})
    print_heading("Evaluating on dev")
    files = {
        (arm.name, point): [(run.model(arm.name, seed), point) for seed in run.seeds]
        for arm in experiment.arms
        for point in experiment.kinds[arm.kind].points
    }
    with timed(run.out, "evaluation"):
        counts = count_errors_in_parallel(files, run.data, "dev", experiment.unit)
        costs = measure_costs(run)
    utterances = read_manifest(run.data, "dev")
    results = {
        "command": command,
        "subset": "dev",
        "rate": METRICS[experiment.unit],
        "utterances": len(utterances),
        "words": sum(len(utterance.text.split()) for utterance in utterances),
        "seeds": list(run.seeds),
        "learning_rates": {kind: {str(rate): error for rate, error in rates.items()} for kind, rates in trials.items()},
        "machine": describe_machine(),
        "seconds": json.loads((run.out / "seconds.json").read_text(encoding="utf-8")),
        **summarize(counts, experiment.comparisons),
        "speeds": experiment.speeds(counts, {cost["point"]: cost["macs_per_second"] for cost in costs}),
        "costs": costs,
    }
    publish(run.out, results, markdown, plot)


def continued(out: Path, experiment: Experiment, kinds: Mapping[str, Kind], like: str) -> Run:
    """Return a run that trains in other ways in the folder of a finished `experiment`.

    It has the data and seeds of the experiment, and the rates that were tried for its kind `like`.
    """
    results = read_report(out / "results.json", ("seeds", "learning_rates"), "the results of the experiment")
    rates = tuple(sorted(map(float, results["learning_rates"][like])))
    settings = json.loads((out / "settings.json").read_text(encoding="utf-8"))
    return Run(
        dataclasses.replace(experiment, kinds=kinds, rates=rates),
        out,
        tuple(results["seeds"]),
        settings["divisor"],
        tuple(settings["overrides"]),
    )


def chosen_rate(out: Path, kind: str) -> float:
    """Return the learning rate that the finished experiment in `out` chose for a kind of training."""
    results = read_report(out / "results.json", ("learning_rates",), "the results of the experiment")
    return best_rate({float(rate): error for rate, error in results["learning_rates"][kind].items()})


def one_rate(experiment: Experiment) -> Experiment:
    """Return the experiment with one learning rate for each kind, which leaves no choice."""
    kinds = {name: dataclasses.replace(kind, rates=kind.rates[1:2]) for name, kind in experiment.kinds.items()}
    return dataclasses.replace(experiment, kinds=kinds, rates=experiment.rates[1:2])


def command_line(
    description: str | None,
    experiment: Experiment,
    prepare_data: Callable[[Path, Run], None],
    *,
    corpus: str,
    seeds: Sequence[int],
    divisor: int,
    settings: Sequence[str] = (),
) -> None:
    """Be the command line of an experiment.

    Args:
        description: The text of --help.
        experiment: What is compared.
        prepare_data: Prepares the manifests of a run from the folder of the corpus.
        corpus: What the folder contains.
        seeds: The seeds by default; a quick run has the first of them.
        divisor: Divisor of the updates of a quick run, which also makes no choice of learning rates.
        settings: Overrides of the recipe for all arms.
    """
    name = experiment.recipe.stem
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="FOLDER", help=corpus)
    parser.add_argument("--out", type=Path, help=f"output folder (default: out-{name} beside this script)")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one seed, few updates, little data to evaluate on, and no choice of learning rates",
    )
    parser.add_argument("--gpu", action="store_true", help="train on a CUDA GPU")
    parser.add_argument("--seeds", type=int, nargs="+", help=f"one or more seeds (default: {seeds[0]} to {seeds[-1]})")
    args = parser.parse_args()
    chosen = tuple(dict.fromkeys(args.seeds or (seeds[:1] if args.quick else seeds)))
    out = args.out or HERE / f"out-{name}{'-quick' if args.quick else ''}"
    command = f"python examples/stochastic/{name}.py FOLDER --seeds {' '.join(map(str, chosen))}"
    run = Run(
        one_rate(experiment) if args.quick else experiment,
        out.resolve(),
        chosen,
        divisor=divisor if args.quick else 1,
        settings=(*settings, *(("common.cpu=false",) if args.gpu else ())),
    )
    with one_line_errors():
        run_all(
            run,
            lambda: prepare_data(args.source, run),
            {"corpus": str(args.source.resolve())},
            command + (" --gpu" if args.gpu else "") + (" --quick" if args.quick else ""),
        )
