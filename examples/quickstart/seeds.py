"""Compare distillation with CTC alone, and the elastic student with separate ones of several depths, over three seeds.

    python examples/quickstart/seeds.py    # 50 minutes on 2 cores; after `make demo`, whose models of seed 1 it reuses

Trains the students of run.py with each seed, and students of two, three and four layers for as many updates as the
elastic one. WER is that of greedy decoding in fp32 on the test prompts; time is that of the int8 models of seed 1, in
batches of one, interleaved. Results are written to out/seeds.json, .md and .png. Finished steps are skipped.
"""

import sys
from pathlib import Path
from typing import Any

from w2v_compress.data.prepare import prepare
from w2v_compress.evaluation.machine import describe_machine
from w2v_compress.evaluation.report import markdown_table
from w2v_compress.evaluation.wer import ErrorCounts
from w2v_compress.files import write_json, write_text
from w2v_compress.papers.seeds import cells, difference, rates

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE.parent), str(HERE)]

from common import count_errors_in_parallel, file_name, load_in_file_precision, run_in_folder  # noqa: E402
from figures import plot_curves  # noqa: E402
from run import POINTS, SEED, STUDENTS, Student, Training, quantized_beside, time_systems, train_missing  # noqa: E402

SEEDS = (1, 2, 3)
ELASTIC = "elastic student"
UPDATES = STUDENTS[ELASTIC].updates
TWO, THREE, FOUR = "student, longer", "student, three layers, longer", "student, four layers, longer"
SEEDED = STUDENTS | {
    TWO: Student("student.yaml", UPDATES),
    THREE: Student("student.yaml", UPDATES, ("model.encoder_layers=3",)),
    FOUR: Student("student.yaml", UPDATES, ("model.encoder_layers=4", "+model.layers=[0,1,3,5]")),
}
SYSTEMS: dict[str, tuple[str, str]] = {name: (name, POINTS[0]) for name in SEEDED if name != ELASTIC} | {
    f"{ELASTIC}, {point}": (ELASTIC, point) for point in POINTS
}
"""Rows of the results: the student and its compression point."""
CURVES = {
    "separate students of two to four layers": [TWO, THREE, FOUR],
    "student": ["student"],
    "student, CTC alone": ["student, CTC alone"],
    "elastic student": [f"{ELASTIC}, {point}" for point in POINTS],
}
"""Lines of the plot."""
DIFFERENCES = (
    ("student, CTC alone", "student"),
    (FOUR, f"{ELASTIC}, 1,1,1"),
    (THREE, f"{ELASTIC}, 2,1,1"),
    (TWO, f"{ELASTIC}, 2,1,1"),
    (TWO, f"{ELASTIC}, 3,1,1"),
)


def model_path(out: Path, name: str, seed: int) -> Path:
    """Return the path of a model file; seed 1 is that of run.py."""
    return out / (f"{file_name(name)}.safetensors" if seed == SEED else f"{file_name(name)}-{seed}.safetensors")


def run(out: Path) -> None:
    """Train what is missing, then print and write the results."""
    data = out / "data"
    if not (data / "test.tsv").exists():
        print(prepare("csv", HERE / "corpus", data).summary())
    train_missing(
        [
            Training(f"{name}, seed {seed}", student, model_path(out, name, seed), seed)
            for name, student in SEEDED.items()
            for seed in SEEDS
        ],
        data,
    )
    files = {
        system: [(model_path(out, name, seed), point) for seed in SEEDS] for system, (name, point) in SYSTEMS.items()
    }
    counts = count_errors_in_parallel(files, data, "test")
    results = summarize(counts, measure_times(data, out))
    write_json(out / "seeds.json", results)
    write_text(out / "seeds.md", markdown(results))
    plot_curves(
        {label: [results["systems"][system] for system in systems] for label, systems in CURVES.items()},
        out / "seeds.png",
    )
    print(markdown(results))


def measure_times(data: Path, out: Path) -> dict[str, float]:
    """Return the milliseconds per second of audio of each system: int8, seed 1."""
    recognizers = {
        name: load_in_file_precision(quantized_beside(model_path(out, name, SEED), data, name)) for name in SEEDED
    }
    recognizers[ELASTIC].engine.keep_points(len(POINTS))
    return time_systems({system: (recognizers[name], point) for system, (name, point) in SYSTEMS.items()}, data)


def summarize(counts: dict[str, list[ErrorCounts]], times: dict[str, float]) -> dict[str, Any]:
    """Return the WER and time of each system and the differences, with intervals over seeds and over prompts."""
    return {
        "command": "python examples/quickstart/seeds.py",
        "seeds": list(SEEDS),
        "updates": {name: student.updates for name, student in SEEDED.items()},
        "systems": {
            name: {"milliseconds_per_second": times[name], "wer": rates(runs)} for name, runs in counts.items()
        },
        "differences": {
            f"{second} minus {first}": difference(counts[first], counts[second]) for first, second in DIFFERENCES
        },
        "machine": describe_machine(),
    }


def markdown(results: dict[str, Any]) -> str:
    """Format the results as a table."""
    lines = [
        [name, f"{each['milliseconds_per_second']:.1f}", *cells(each["wer"])]
        for name, each in results["systems"].items()
    ]
    lines += [[name, "", *cells(each)] for name, each in results["differences"].items()]
    return markdown_table(["WER, %", "ms per s of audio", "mean", "over seeds", "over prompts"], lines)


if __name__ == "__main__":
    run_in_folder(__doc__, run, HERE / "out")
