"""Compress a trained recognizer by distillation and int8 quantization, and measure the cost.

    make demo                                   # from the top of the repository; at most 15 minutes on 2 cores
    python examples/quickstart/run.py --quick   # two minutes: each step, with barely trained students

Trains two students with a third of the layers of the shipped teacher (see teacher/README.md): one distilled from the
teacher, one with CTC alone from the same initialization for the same number of updates. Then quantizes the teacher and
the distilled student, and evaluates all five models on the test prompts. Finished steps are skipped; remove the output
folder to start again.
"""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from w2v_compress.cli.console import progress_bar
from w2v_compress.data.manifest import Utterance, read_manifest
from w2v_compress.data.prepare import prepare
from w2v_compress.errors import InputError
from w2v_compress.evaluation.calibrate import calibrate
from w2v_compress.evaluation.evaluate import EvaluationReport, evaluate
from w2v_compress.evaluation.machine import describe_machine, interleaved_latency
from w2v_compress.evaluation.report import markdown_table
from w2v_compress.evaluation.wer import Interval, compare
from w2v_compress.files import replacing, write_json, write_text
from w2v_compress.interop.fairseq_checkpoint import export_checkpoint
from w2v_compress.model_file.storage import quantize_file
from w2v_compress.model_file.tensor_file import describe_model

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))

from common import console, file_name, load_in_file_precision, percent, print_heading, train, update_bars  # noqa: E402

TEACHER = HERE / "teacher" / "teacher.pt"
SEED = 1
UPDATES, QUICK_UPDATES = 800, 20
TIMED_SECONDS = 20
CTC_ALONE = ["criterion.kl_weight=0"]
STUDENTS = {"student": [], "student, CTC alone": CTC_ALONE}
QUANTIZED = {"teacher int8": "teacher", "student int8": "student"}
COLUMNS = ["model", "params", "MB", "ms per s of audio", "WER", "CER"]
SHOWN = ("teacher", "student", "student int8")


def train_student(name: str, overrides: list[str], data: Path, out: Path, updates: int) -> Path:
    """Train a student with student.yaml, and return its last checkpoint."""
    paths = [f"task.data={data}", f"criterion.teacher_checkpoint={TEACHER}", f"model.init_checkpoint={TEACHER}"]
    with update_bars() as progress:
        task = progress.add_task(f"Training: {name}", total=updates)
        return train(
            HERE / "student.yaml",
            [f"common.seed={SEED}", *paths, *overrides],
            out / file_name(name),
            updates,
            progress=lambda done: progress.update(task, completed=done),
        )


def build_models(data: Path, out: Path, updates: int) -> dict[str, Path]:
    """Create the five model files that do not exist yet, and return their paths by name."""
    models = {name: out / f"{file_name(name)}.safetensors" for name in ("teacher", *STUDENTS, *QUANTIZED)}
    if not models["teacher"].exists():
        export_checkpoint(TEACHER, models["teacher"])
    for name, overrides in STUDENTS.items():
        if not models[name].exists():
            export_checkpoint(train_student(name, overrides, data, out, updates), models[name])
    for name, source in QUANTIZED.items():
        if not models[name].exists():
            speech = [utterance.path for utterance in read_manifest(data, "train")]
            with progress_bar(f"Calibrating: {name}") as progress:
                calibration = calibrate(models[source], speech, seed=SEED, progress=progress)
            quantize_file(models[source], models[name], calibration=calibration)
    return models


def timed_utterances(utterances: list[Utterance]) -> list[Utterance]:
    """Return the first test prompts that last TIMED_SECONDS together."""
    chosen: list[Utterance] = []
    for utterance in utterances:
        if sum(earlier.seconds for earlier in chosen) >= TIMED_SECONDS:
            break
        chosen.append(utterance)
    return chosen


def measure(models: dict[str, Path], utterances: list[Utterance]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Evaluate and time the models; return a row of the results table for each, and their reports."""
    recognizers = {name: load_in_file_precision(path) for name, path in models.items()}
    reports: dict[str, EvaluationReport] = {}
    for name, recognizer in recognizers.items():
        with progress_bar(f"Evaluating: {name}") as progress:
            reports[name] = evaluate(recognizer, utterances, seed=SEED, progress=progress)
    chosen = timed_utterances(utterances)
    timed, seconds = [utterance.path for utterance in chosen], sum(utterance.seconds for utterance in chosen)
    print_heading(f"Timing: {len(timed)} prompts ({seconds:.0f} s), batch 1, interleaved, median of 9 runs")
    latency = interleaved_latency(
        {name: lambda run=recognizer: run.transcribe(timed, batch_size=1) for name, recognizer in recognizers.items()}  # type: ignore[misc]
    )
    rows = []
    for name, path in models.items():
        description = describe_model(path)
        row = {"model": name, "parameters": description["parameters"], "bytes": description["bytes"]}
        row |= {"milliseconds_per_second": latency[name] / seconds}
        row |= {"wer": dataclasses.asdict(reports[name].wer), "cer": dataclasses.asdict(reports[name].cer)}
        rows.append(row)
    return rows, reports


def differences(reports: dict[str, EvaluationReport]) -> dict[str, Interval]:
    """Compute the WER differences of distillation and of int8 on the same prompts, with paired intervals."""
    pairs = {
        "student minus student, CTC alone": ("student, CTC alone", "student"),
        **{f"{name} minus {source}": (source, name) for name, source in QUANTIZED.items()},
    }
    return {
        title: compare(reports[first].word_counts, reports[second].word_counts, seed=SEED)
        for title, (first, second) in pairs.items()
    }


def cells(row: dict[str, Any]) -> list[str]:
    """Format a row of the table with the columns COLUMNS."""
    return [
        row["model"],
        f"{row['parameters'] / 1e6:.2f}M",
        f"{row['bytes'] / 1e6:.2f}",
        f"{row['milliseconds_per_second']:.1f}",
        percent(row["wer"]),
        percent(row["cer"]),
    ]


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print the results table."""
    table = Table(title="Test prompts", caption="95% bootstrap intervals; time: batch 1, this machine")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "model" else "right", no_wrap=True)
    for row in rows:
        table.add_row(*cells(row))
    Console(width=max(console.width, 120)).print(table)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Plot WER and its interval against size and time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    quantities = {"size, MB": ("bytes", 1e6), "ms per s of audio": ("milliseconds_per_second", 1)}
    for axis, (label, (field, unit)) in zip(axes, quantities.items(), strict=True):
        for row in rows:
            x = row[field] / unit
            wer = row["wer"]
            reach = [[100 * (wer["value"] - wer["low"])], [100 * (wer["high"] - wer["value"])]]
            axis.errorbar([x], [100 * wer["value"]], yerr=reach, fmt="o", capsize=4, label=row["model"])
        axis.set_xlabel(label)
        axis.set_xlim(left=0)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("WER on the test prompts, %")
    axes[0].set_ylim(bottom=0)
    axes[1].legend(fontsize="small")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"train for {QUICK_UPDATES} instead of {UPDATES} updates")
    parser.add_argument("--out", type=Path, help="output folder (default: out, or out-quick, beside this script)")
    args = parser.parse_args()
    updates = QUICK_UPDATES if args.quick else UPDATES
    out: Path = (args.out or HERE / ("out-quick" if args.quick else "out")).resolve()
    try:
        run(out, updates, args.quick)
    except InputError as error:
        sys.exit(f"quickstart: {error}")


def run(out: Path, updates: int, quick: bool) -> None:
    """Run all unfinished steps, then print and write the results."""
    data = out / "data"
    if not (data / "test.tsv").exists():
        print_heading("Preparing the prompts")
        print(prepare("csv", HERE / "corpus", data).summary())
    models = build_models(data, out, updates)
    utterances = read_manifest(data, "test")
    rows, reports = measure(models, utterances)
    print_table(rows)
    gains = differences(reports)
    for title, gain in gains.items():
        print(f"WER of {title}: {gain.percent()}")
    for index in (0, len(utterances) // 2, len(utterances) - 1):
        print(f"\n{utterances[index].path.name}: {utterances[index].text}")
        for name in SHOWN:
            print(f"  {name:>12}: {reports[name].hypotheses[index]}")
    results = {
        "command": "make demo" + (" QUICK=1" if quick else ""),
        "seed": SEED,
        "updates": updates,
        "test_utterances": len(utterances),
        "test_words": sum(len(utterance.text.split()) for utterance in utterances),
        "machine": describe_machine(),
        "models": rows,
        "wer_differences": {title: dataclasses.asdict(gain) for title, gain in gains.items()},
    }
    write_json(out / "results.json", results)
    write_text(out / "results.md", markdown_table(COLUMNS, [cells(row) for row in rows]))
    plot(rows, out / "results.png")
    print(f"\nresults: {out / 'results.json'}, {out / 'results.png'}; models: {out}/*.safetensors")


if __name__ == "__main__":
    main()
