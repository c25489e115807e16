"""Distil a deep teacher of connected digits into a chain of students, with baselines, int8 and several seeds.

    python examples/fsdd/run.py FSDD_FOLDER            # about an hour on 2 cores; see README.md
    python examples/fsdd/run.py FSDD_FOLDER --quick    # a few minutes: runs each step with untrained models

FSDD_FOLDER is a checkout of the Free Spoken Digit Dataset. Finished steps are skipped and interrupted trainings
continue; remove the output folder to start again.
"""

import argparse
import csv
import dataclasses
import itertools
import json
import re
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from rich.progress import Progress

from w2v_compress.data.corpora import read_fsdd
from w2v_compress.data.manifest import read_manifest
from w2v_compress.data.prepare import prepare
from w2v_compress.evaluation.machine import describe_machine, interleaved_latency
from w2v_compress.evaluation.wer import ErrorCounts
from w2v_compress.interop.fairseq_checkpoint import export_checkpoint
from w2v_compress.model_file.storage import quantize_file
from w2v_compress.model_file.tensor_file import describe_model

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))

from common import (  # noqa: E402
    count_errors_in_parallel,
    file_name,
    load_in_file_precision,
    one_line_errors,
    print_heading,
    publish,
    require_same_settings,
    run_in_parallel,
    split_digits,
    timed,
    train,
    update_bars,
    write_corpus,
)
from figures import markdown, plot, summarize  # noqa: E402

DATA_SEED = 1
TIMED_STRINGS = 8
CTC_ALONE = ("criterion.kl_weight=0", "criterion.ctc_weight=1")
PLUS = ("criterion.temperature=2", "criterion.ctc_weight=0.1", "criterion.hidden_weight=0.5")


@dataclass(frozen=True)
class Recipe:
    """A training recipe of students."""

    overrides: tuple[str, ...]
    """Overrides of student.yaml."""
    data: str
    """The training data: `few`, or `data`, which is that of the teacher."""
    baselines: tuple[str, ...] = ()
    """Recipes without a teacher to compare with. The first one differs only in the loss."""


RECIPES = {
    "paper": Recipe((), "few", baselines=("no teacher", "no teacher, masked")),
    "plus": Recipe(PLUS, "few", baselines=("no teacher", "no teacher, masked")),
    "no teacher": Recipe(CTC_ALONE, "few"),
    "no teacher, masked": Recipe((*CTC_ALONE, "model.apply_mask=true"), "few"),
    "paper, all data": Recipe((), "data", baselines=("no teacher, all data",)),
    "no teacher, all data": Recipe(CTC_ALONE, "data"),
}
DEPTHS = (12, 4)
"""Layers of the students. The first student starts from the teacher, each other one from the previous student."""
SCHEMES = {"teacher": ("full", "paper")}
"""int8 schemes by model; ("full",) for models that are not listed."""


@dataclass(frozen=True)
class Size:
    """The size of a run: training updates and amount of data."""

    strings: int
    """The number of strings of 3 to 7 digits in all splits, and of strings of 1 or 2 digits."""
    teacher_updates: tuple[int, int]
    """Updates on the short strings, then on the long ones."""
    student_updates: dict[int, int]
    """Updates by number of layers of the student."""
    teacher_overrides: tuple[str, ...] = ()


FULL = Size(5400, (1000, 1500), {12: 150, 4: 200})
TINY = ("embed_dim=32", "ffn_embed_dim=32")
QUICK = Size(90, (5, 5), {12: 5, 4: 5}, tuple(f"model.w2v_args.model.encoder_{shape}" for shape in TINY))


@dataclass(frozen=True)
class Run:
    """An output folder, and the paths of its files."""

    out: Path
    size: Size
    seeds: tuple[int, ...]

    @property
    def data(self) -> Path:
        """The manifests of the teacher."""
        return self.out / "data"

    @property
    def teacher(self) -> Path:
        """The model file of the teacher."""
        return self.out / "teacher.safetensors"

    def student(self, recipe: str, layers: int, seed: int) -> Path:
        """Return the model file of a student."""
        return self.out / f"{file_name(f'{recipe} {layers} layers seed {seed}')}.safetensors"

    def models(self) -> dict[tuple[str, int], list[Path]]:
        """Return the model files of each (recipe, layers), one per seed; ("teacher", 24) has a single file."""
        students = itertools.product(RECIPES, DEPTHS)
        return {("teacher", 24): [self.teacher]} | {
            (recipe, layers): [self.student(recipe, layers, seed) for seed in self.seeds] for recipe, layers in students
        }


def quantized(model: Path, scheme: str) -> Path:
    """Return the path of the int8 file of `model`."""
    return model.with_name(f"{model.stem}-int8-{scheme}.safetensors")


def prepare_strings(source: Path, run: Run) -> None:
    """Join digits to strings: of 3 to 7 digits in `data` and `few`, and of 1 or 2 digits in `short`.

    `few` uses recordings 10 to 14 of `train`, an eighth of it. The recipes were chosen on `valid`, see `split_digits`.
    """
    rows = split_digits(read_fsdd(source))
    few = [row for row in rows if row[2] == "train" and re.search(r"_1[0-4]$", Path(row[0]).stem)]
    count = run.size.strings
    for folder, listed, join, strings in (
        ("short", rows, "1:2", count),
        ("data", rows, "3:7", count),
        ("few", few, "3:7", round(count * len(few) / len(rows))),
    ):
        listing = write_corpus(run.out / "recordings" / folder, listed)
        report = prepare("fsdd", listing, run.out / folder, join=join, join_count=strings, seed=DATA_SEED)
        print(report.summary())


def train_teacher(run: Run) -> None:
    """Train the teacher on short strings, then on long ones, and export it."""
    short_updates, updates = run.size.teacher_updates
    with update_bars() as progress:

        def stage(name: str, data: str, updates: int, overrides: list[str]) -> Path:
            task = progress.add_task(f"Training: {name}", total=updates)
            settings = [f"task.data={run.out / data}", *run.size.teacher_overrides, *overrides]
            return train(
                HERE / "teacher.yaml",
                settings,
                run.out / file_name(name),
                updates,
                progress=lambda done: progress.update(task, completed=done),
            )

        fast = ["lr_scheduler.phase_ratio=[0.25,0.5,0.25]", "dataset.max_tokens=160000"]
        first = stage("teacher, short strings", "short", short_updates, fast)
        masked = ["model.apply_mask=true", "model.layerdrop=0.1", f"checkpoint.finetune_from_model={first}"]
        export_checkpoint(stage("teacher", "data", updates, masked), run.teacher)


def train_chain(run: Run, recipe: str, seed: int, progress: Progress) -> None:
    """Train the students of one recipe and seed, each initialized from the previous one."""
    init = run.teacher
    for layers in DEPTHS:
        student = run.student(recipe, layers, seed)
        if not student.exists():
            name = f"{recipe}, {layers} layers, seed {seed}"
            task = progress.add_task(f"Training: {name}", total=run.size.student_updates[layers])
            settings = [f"common.seed={seed}", f"model.encoder_layers={layers}"]
            settings += [f"task.data={run.out / RECIPES[recipe].data}"]
            settings += [f"model.init_checkpoint={init}", f"criterion.teacher_checkpoint={run.teacher}"]
            checkpoint = train(
                HERE / "student.yaml",
                [*settings, *RECIPES[recipe].overrides],
                run.out / "training" / student.stem,
                run.size.student_updates[layers],
                threads=1,
                progress=lambda done, row=task: progress.update(row, completed=done),
            )
            export_checkpoint(checkpoint, student)
            progress.update(task, completed=run.size.student_updates[layers])
        init = student


def train_students(run: Run) -> None:
    """Train the chains of all recipes and seeds in parallel."""
    chains = [(recipe, seed) for seed, recipe in itertools.product(run.seeds, RECIPES)]
    run_in_parallel(partial(train_chain, run), chains)


def measure(run: Run, subset: str) -> dict[tuple[str, int, str], list[ErrorCounts]]:
    """Quantize the models, and count the errors of the files of each (recipe, layers, precision)."""
    files = {(*model, "fp32"): paths for model, paths in run.models().items()}
    for (recipe, layers), paths in run.models().items():
        for scheme in SCHEMES.get(recipe, ("full",)):
            files[recipe, layers, f"int8 {scheme}"] = [quantized(path, scheme) for path in paths]
            for path in paths:
                if not quantized(path, scheme).exists():
                    quantize_file(path, quantized(path, scheme), scheme=scheme)
    return count_errors_in_parallel(
        {key: [(path, None) for path in paths] for key, paths in files.items()}, run.data, subset
    )


def measure_costs(run: Run, subset: str) -> list[dict[str, Any]]:
    """Measure size and time by layers and precision, which do not depend on recipe and seed."""
    files = {}
    for recipe, layers in [("teacher", 24), *itertools.product(list(RECIPES)[:1], DEPTHS)]:
        path = run.models()[recipe, layers][0]
        files[layers, "fp32"] = path
        files |= {(layers, f"int8 {scheme}"): quantized(path, scheme) for scheme in SCHEMES.get(recipe, ("full",))}
    strings = read_manifest(run.data, subset)[:TIMED_STRINGS]
    paths, seconds = [string.path for string in strings], sum(string.seconds for string in strings)
    print_heading(f"Timing: {len(paths)} strings ({seconds:.0f} s), batch 1, interleaved, median of 9 runs")
    recognizers = {key: load_in_file_precision(path) for key, path in files.items()}
    latency = interleaved_latency(
        {
            str(key): lambda run=recognizer: run.transcribe(paths, batch_size=1)  # type: ignore[misc]
            for key, recognizer in recognizers.items()
        }
    )
    costs = []
    for (layers, precision), path in files.items():
        description = describe_model(path)
        row = {"layers": layers, "precision": precision, "parameters": description["parameters"]}
        row |= {"bytes": description["bytes"]}
        costs.append(row | {"milliseconds_per_second": latency[str((layers, precision))] / seconds})
    return costs


def check_settings(run: Run, source: Path) -> None:
    """Raise InputError if the output folder contains a run with other settings."""
    settings: dict[str, Any] = {"corpus": str(source.resolve()), **dataclasses.asdict(run.size)}
    settings["recipes"] = {name: dataclasses.asdict(recipe) for name, recipe in RECIPES.items()}
    settings |= {
        name: yaml.safe_load((HERE / name).read_text(encoding="utf-8")) for name in ("teacher.yaml", "student.yaml")
    }
    require_same_settings(run.out, settings)


def run_all(run: Run, source: Path, subset: str, command: str) -> None:
    """Run all unfinished steps, then publish the results."""
    run.out.mkdir(parents=True, exist_ok=True)
    check_settings(run, source)
    if not (run.out / "few" / "train.tsv").exists():
        print_heading("Joining recordings into strings")
        with timed(run.out, "preparation"):
            prepare_strings(source, run)
    if not run.teacher.exists():
        with timed(run.out, "teacher"):
            train_teacher(run)
    with timed(run.out, "students"):
        train_students(run)
    print_heading(f"Quantizing, and evaluating on {subset}")
    with timed(run.out, "evaluation"):
        counts = measure(run, subset)
        costs = measure_costs(run, subset)
    strings = read_manifest(run.data, subset)
    results = {
        "command": command,
        "subset": subset,
        "strings": len(strings),
        "words": sum(len(string.text.split()) for string in strings),
        "recordings": count_recordings(run, subset),
        "seeds": list(run.seeds),
        "data_seed": DATA_SEED,
        "teacher_updates": list(run.size.teacher_updates),
        "student_updates": run.size.student_updates,
        "machine": describe_machine(),
        "seconds": json.loads((run.out / "seconds.json").read_text(encoding="utf-8")),
        **summarize(counts, {name: recipe.baselines for name, recipe in RECIPES.items()}),
        "costs": costs,
    }
    publish(run.out, results, markdown, plot)


def count_recordings(run: Run, subset: str) -> int:
    """Count the recordings that the strings of `subset` were joined from."""
    with open(run.out / "recordings" / "data" / "utterances.csv", encoding="utf-8", newline="") as file:
        return sum(row["split"] == subset for row in csv.DictReader(file))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, metavar="FSDD_FOLDER")
    parser.add_argument("--out", type=Path, help="output folder (default: out, or out-quick, beside this script)")
    parser.add_argument("--quick", action="store_true", help="tiny models and few updates")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="two or more seeds")
    parser.add_argument(
        "--subset", choices=("dev", "valid"), default="dev", help="subset to evaluate on; valid is for choosing recipes"
    )
    args = parser.parse_args()
    seeds = tuple(dict.fromkeys(args.seeds))
    if len(seeds) < 2:
        parser.error(f"--seeds: {len(seeds)} given; an interval over seeds needs at least two different seeds")
    out: Path = (args.out or HERE / ("out-quick" if args.quick else "out")).resolve()
    command = "python examples/fsdd/run.py FSDD_FOLDER" + (" --quick" if args.quick else "")
    command += f" --seeds {' '.join(map(str, seeds))} --subset {args.subset}"
    with one_line_errors(name="fsdd"):
        run_all(Run(out, QUICK if args.quick else FULL, seeds), args.corpus, args.subset, command)


if __name__ == "__main__":
    main()
