"""Compress a trained recognizer by every method, and measure the cost: distillation, int8, and an elastic student.

    make demo                                   # from the top of the repository; at most 15 minutes on 2 cores
    python examples/quickstart/run.py --quick   # two to three minutes: each step, with barely trained students

From the shipped teacher (see teacher/README.md), trains three students on the prompts: one with a third of the layers,
distilled; the same with CTC alone, from the same initialization for the same number of updates; and an elastic one,
distilled at sampled compression points. Quantizes all of them to int8, and evaluates every model on the test prompts,
the elastic one at each of its points, with greedy decoding and with a bigram. Finished steps are skipped; remove the
output folder to start again.
"""

import argparse
import dataclasses
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from w2v_compress.cli.console import progress_bar
from w2v_compress.data.manifest import Utterance, read_manifest
from w2v_compress.data.prepare import prepare
from w2v_compress.evaluation.calibrate import calibrate
from w2v_compress.evaluation.evaluate import EvaluationReport, evaluate
from w2v_compress.evaluation.machine import describe_machine, interleaved_latency
from w2v_compress.evaluation.report import markdown_table
from w2v_compress.evaluation.sweep import sweep
from w2v_compress.evaluation.wer import Interval, compare
from w2v_compress.files import write_json, write_text
from w2v_compress.interop.fairseq_checkpoint import export_checkpoint
from w2v_compress.model_file.storage import quantize_file, store_sweep
from w2v_compress.model_file.tensor_file import describe_model, read_header
from w2v_compress.runtime.decoding.beam_search import BeamSearchDecoder
from w2v_compress.runtime.recognizer import Recognizer

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE.parent), str(HERE)]

from bigram import dev_rates, write_bigram  # noqa: E402
from common import console, file_name, load_in_file_precision, one_line_errors, print_heading, run_in_parallel, train  # noqa: E402
from figures import COLUMNS, cells, plot, write_page  # noqa: E402

TEACHER = HERE / "teacher" / "teacher.pt"
SEED = 1
TIMED_SECONDS = 20
USEFUL_INCREASE = 0.1
"""The cheapest useful point of the elastic student costs at most so much WER on dev, as a fraction."""


@dataclass(frozen=True)
class Student:
    """How a student is trained."""

    config: str
    updates: int
    overrides: tuple[str, ...] = ()


STUDENTS = {
    "student": Student("student.yaml", 800),
    "student, CTC alone": Student("student.yaml", 800, ("criterion.kl_weight=0",)),
    "elastic student": Student("elastic.yaml", 1300),
}
POINTS: list[str] = list(OmegaConf.load(HERE / "elastic.yaml").task.points)
"""The points of the elastic student."""
QUICK_UPDATES, QUICK_PROMPTS = 20, 100
ELASTIC = "elastic student int8"
PROMPTS = 3


@dataclass(frozen=True)
class System:
    """A model file at a compression point, which is a row of the results."""

    file: str
    point: str | None = None

    @property
    def name(self) -> str:
        """The name in the table."""
        return self.file if self.point is None else f"{self.file}, {self.point}"


def paths(data: Path) -> list[str]:
    """Return the overrides for training a student of the shipped teacher on `data`."""
    teacher = [f"criterion.teacher_checkpoint={TEACHER}", f"model.init_checkpoint={TEACHER}"]
    return [f"task.data={data}", *teacher, f"criterion.teacher_cache={data.parent / 'teacher-logits'}"]


@dataclass(frozen=True)
class Training:
    """The training of a student with a seed, which ends with a model file."""

    name: str
    student: Student
    model: Path
    seed: int = SEED

    def run(self, data: Path, progress: Progress) -> None:
        """Train beside the model file, in the folder of its name, and write the model after the last update."""
        task = progress.add_task(f"Training: {self.name}", total=self.student.updates)
        checkpoint = train(
            HERE / self.student.config,
            [f"common.seed={self.seed}", *paths(data), *self.student.overrides],
            self.model.with_suffix(""),
            self.student.updates,
            threads=1,
            progress=lambda done: progress.update(task, completed=done),
        )
        export_checkpoint(checkpoint, self.model)


def train_missing(trainings: Iterable[Training], data: Path) -> None:
    """Run the trainings whose models do not exist yet in parallel, on one core each, the longest ones first."""
    missing = [training for training in trainings if not training.model.exists()]
    missing.sort(key=lambda training: -training.student.updates)
    run_in_parallel(Training.run, [(training, data) for training in missing])


def students_of(quick: bool) -> dict[str, Student]:
    """Return the students, with few updates if `quick`."""
    if not quick:
        return STUDENTS
    return {name: dataclasses.replace(student, updates=QUICK_UPDATES) for name, student in STUDENTS.items()}


def build_models(data: Path, out: Path, quick: bool) -> dict[str, Path]:
    """Create the model files that do not exist yet, and return their paths by name: each model, then its int8."""
    models = {name: out / f"{file_name(name)}.safetensors" for name in ("teacher", *STUDENTS)}
    if not models["teacher"].exists():
        export_checkpoint(TEACHER, models["teacher"])
    train_missing([Training(name, student, models[name]) for name, student in students_of(quick).items()], data)
    for name in list(models):
        models[f"{name} int8"] = quantized_beside(models[name], data, name, QUICK_PROMPTS if quick else None)
    return models


def quantized_beside(model: Path, data: Path, name: str, prompts: int | None = None) -> Path:
    """Return the path of the int8 file beside `model`, which is created if it does not exist; see `quantize`."""
    quantized = model.with_stem(f"{model.stem}-int8")
    if not quantized.exists():
        quantize(model, quantized, data, name, prompts)
    return quantized


def quantize(model: Path, quantized: Path, data: Path, name: str, prompts: int | None = None) -> None:
    """Quantize `model` to int8, calibrated on the first `prompts` training prompts, or on as many as are useful."""
    speech = [utterance.path for utterance in read_manifest(data, "train")][:prompts]
    with progress_bar(f"Calibrating: {name}") as progress:
        calibration = calibrate(model, speech, seed=SEED, progress=progress)
    quantize_file(model, quantized, calibration=calibration)


def store_dev_sweep(model: Path, data: Path) -> None:
    """Measure the elastic model at each of its points on the dev prompts, and store the results in its file."""
    if read_header(model).sweep is None:
        with progress_bar("Sweeping: elastic student int8, dev") as progress:
            report = sweep(load_in_file_precision(model), read_manifest(data, "dev"), seed=SEED, progress=progress)
        store_sweep(model, report.to_store("dev"))


def systems_of(models: dict[str, Path]) -> list[System]:
    """Return the rows of the results: every model, and the elastic int8 student at each of its points."""
    systems = [System(name) for name in models if name != ELASTIC]
    return systems + [System(ELASTIC, str(point)) for point in read_header(models[ELASTIC]).space.all_points()]


def time_systems(systems: Mapping[str, tuple[Recognizer, str | None]], data: Path) -> dict[str, float]:
    """Return the milliseconds per second of audio of each recognizer and point, on the first test prompts."""
    chosen: list[Utterance] = []
    seconds = 0.0
    for utterance in read_manifest(data, "test"):
        if seconds < TIMED_SECONDS:
            chosen.append(utterance)
            seconds += utterance.seconds
    print_heading(f"Timing: {len(chosen)} prompts ({seconds:.0f} s), batch 1, interleaved, median of 9 runs")
    files = [utterance.path for utterance in chosen]
    latency = interleaved_latency(
        {
            name: partial(recognizer.transcribe, files, batch_size=1, point=point)
            for name, (recognizer, point) in systems.items()
        }
    )
    return {name: milliseconds / seconds for name, milliseconds in latency.items()}


def measure(
    models: dict[str, Path], data: Path, lm: Path
) -> tuple[list[dict[str, Any]], dict[str, EvaluationReport], dict[str, Any]]:
    """Evaluate and time all systems; return a row of the results for each, their reports, and the options of the LM."""
    utterances = read_manifest(data, "test")
    recognizers = {name: load_in_file_precision(path) for name, path in models.items()}
    on_dev = dev_rates(recognizers["teacher"], data, lm)
    best = min(on_dev, key=on_dev.__getitem__)
    systems = systems_of(models)
    recognizers[ELASTIC].engine.keep_points(len(systems))
    greedy: dict[str, EvaluationReport] = {}
    bigram: dict[str, EvaluationReport] = {}
    for system in systems:
        recognizer = recognizers[system.file]
        with progress_bar(f"Evaluating: {system.name}") as progress:
            greedy[system.name] = evaluate(recognizer, utterances, point=system.point, seed=SEED, progress=progress)
        decoder = recognizer.decoder
        header = recognizer.header
        recognizer.decoder = BeamSearchDecoder(header.units, header.seconds_per_frame, lm=lm, options=best)
        with progress_bar(f"Evaluating with the bigram: {system.name}") as progress:
            bigram[system.name] = evaluate(recognizer, utterances, point=system.point, seed=SEED, progress=progress)
        recognizer.decoder = decoder
    times = time_systems({system.name: (recognizers[system.file], system.point) for system in systems}, data)
    rows = []
    for system in systems:
        description = describe_model(models[system.file])
        row: dict[str, Any] = {"model": system.name, "file": system.file, "point": system.point}
        row |= {name: description[name] for name in ("parameters", "bytes", "precision")}
        row |= {"milliseconds_per_second": times[system.name]}
        row |= {"wer": dataclasses.asdict(greedy[system.name].wer), "cer": dataclasses.asdict(greedy[system.name].cer)}
        rows.append(row | {"wer_bigram": dataclasses.asdict(bigram[system.name].wer)})
    return rows, greedy, dataclasses.asdict(best)


def differences(reports: dict[str, EvaluationReport]) -> dict[str, Interval]:
    """Compute the WER differences of distillation and of int8 on the same prompts, with paired intervals."""
    full = next(name for name in reports if name.startswith(ELASTIC))
    pairs = {"student minus student, CTC alone": ("student, CTC alone", "student")}
    pairs |= {f"{name} int8 minus {name}": (name, f"{name} int8") for name in ("teacher", "student")}
    pairs |= {f"{full} minus elastic student": ("elastic student", full)}
    return {
        title: compare(reports[first].word_counts, reports[second].word_counts, seed=SEED)
        for title, (first, second) in pairs.items()
    }


def transcribe_prompts(model: Path, utterances: list[Utterance]) -> list[dict[str, Any]]:
    """Transcribe and time the longest prompts with the elastic student at its full and its cheapest useful point."""
    recognizer = load_in_file_precision(model)
    swept = recognizer.header.sweep
    assert swept is not None
    points = [swept.least_compressed.point, swept.within_increase(USEFUL_INCREASE).point]
    chosen = sorted(utterances, key=lambda utterance: -utterance.samples)[:PROMPTS]
    return [
        {
            "file": utterance.path.name,
            "text": utterance.text,
            "transcripts": [_timed_transcript(recognizer, utterance, str(point)) for point in dict.fromkeys(points)],
        }
        for utterance in chosen
    ]


def _timed_transcript(recognizer: Recognizer, utterance: Utterance, point: str) -> dict[str, Any]:
    run = partial(recognizer.transcribe, utterance.path, point=point)
    return {"point": point, "text": run(), "milliseconds": interleaved_latency({point: run})[point]}


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print the results table."""
    table = Table(title="Test prompts", caption="95% bootstrap intervals; time: batch 1, this machine")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "model" else "right", no_wrap=True)
    for row in rows:
        table.add_row(*cells(row))
    Console(width=max(console.width, 120)).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"train students for {QUICK_UPDATES} updates only")
    parser.add_argument("--out", type=Path, help="output folder (default: out, or out-quick, beside this script)")
    args = parser.parse_args()
    out: Path = (args.out or HERE / ("out-quick" if args.quick else "out")).resolve()
    with one_line_errors(name="quickstart"):
        run(out, args.quick)


def run(out: Path, quick: bool) -> None:
    """Run all unfinished steps, then print and write the results."""
    data, lm = out / "data", out / "bigram.arpa"
    if not (data / "test.tsv").exists():
        print_heading("Preparing the prompts")
        print(prepare("csv", HERE / "corpus", data).summary())
    models = build_models(data, out, quick)
    store_dev_sweep(models[ELASTIC], data)
    write_bigram(data, lm)
    utterances = read_manifest(data, "test")
    rows, reports, options = measure(models, data, lm)
    print_table(rows)
    gains = differences(reports)
    for title, gain in gains.items():
        print(f"WER of {title}: {gain.percent()}")
    transcripts = transcribe_prompts(models[ELASTIC], utterances)
    print(
        "\nThe elastic student in int8, at its full point and at the cheapest that costs at most "
        f"{100 * USEFUL_INCREASE:.0f} percentage points of WER on dev:"
    )
    for prompt in transcripts:
        print(f"\n{prompt['file']}: {prompt['text']}")
        for each in prompt["transcripts"]:
            print(f"  {each['point']}, {each['milliseconds']:5.1f} ms: {each['text']}")
    results = {
        "command": "make demo" + (" QUICK=1" if quick else ""),
        "seed": SEED,
        "updates": {name: student.updates for name, student in students_of(quick).items()},
        "test_utterances": len(utterances),
        "test_words": sum(len(utterance.text.split()) for utterance in utterances),
        "machine": describe_machine(),
        "models": rows,
        "wer_differences": {title: dataclasses.asdict(gain) for title, gain in gains.items()},
        "language_model": options,
        "transcripts": transcripts,
    }
    write_json(out / "results.json", results)
    write_text(out / "results.md", markdown_table(COLUMNS, [cells(row) for row in rows]))
    plot(rows, out / "results.png")
    write_page(results, out / "results.png", out / "results.html")
    print(f"\nresults: {out}/results.json, .md, .png and .html; models: {out}/*.safetensors")


if __name__ == "__main__":
    main()
