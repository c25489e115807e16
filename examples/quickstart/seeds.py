"""Compare distillation with CTC alone, and the elastic student with a fixed one of its depth, over three seeds.

    python examples/quickstart/seeds.py    # about an hour on 2 cores; after `make demo`, whose seed 1 it reuses

Trains the students of run.py with each seed, and a fixed student with the four layers of the elastic one. WER is that
of greedy decoding in fp32 on the test prompts. Results are written to out/seeds.json and out/seeds.md. Finished steps
are skipped.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from w2v_compress.data.prepare import prepare
from w2v_compress.errors import InputError
from w2v_compress.evaluation.machine import describe_machine
from w2v_compress.evaluation.report import markdown_table
from w2v_compress.evaluation.wer import ErrorCounts
from w2v_compress.files import write_json, write_text
from w2v_compress.interop.fairseq_checkpoint import export_checkpoint
from w2v_compress.papers.seeds import cells, difference, rates

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE.parent), str(HERE)]

from common import count_errors_in_parallel, file_name  # noqa: E402
from run import SEED, STUDENTS, Student, train_student  # noqa: E402

SEEDS = (1, 2, 3)
FIXED = "student, four layers"
FULL_POINT = "1,1,1"
SQUEEZED_POINT = "2,1,1"
LAYERS = ("model.encoder_layers=4", "model.layers=[0,1,3,5]")
SEEDED = {**STUDENTS, FIXED: Student("student.yaml", STUDENTS["elastic student"].updates, LAYERS)}
SYSTEMS: dict[str, tuple[str, str]] = {name: (name, FULL_POINT) for name in SEEDED} | {
    "elastic student at 2,1,1": ("elastic student", SQUEEZED_POINT)
}
"""Rows of the results: the student and its compression point."""
DIFFERENCES = (
    ("student, CTC alone", "student"),
    (FIXED, "elastic student"),
    ("student", "elastic student at 2,1,1"),
)


def model_path(out: Path, name: str, seed: int) -> Path:
    """Return the path of a model file; seed 1 is that of run.py."""
    return out / (f"{file_name(name)}.safetensors" if seed == SEED else f"{file_name(name)}-{seed}.safetensors")


def run(out: Path) -> None:
    """Train what is missing, then print and write the results."""
    data = out / "data"
    if not (data / "test.tsv").exists():
        print(prepare("csv", HERE / "corpus", data).summary())
    for seed in SEEDS:
        for name, student in SEEDED.items():
            model = model_path(out, name, seed)
            if not model.exists():
                folder = out if seed == SEED else out / f"seed-{seed}"
                export_checkpoint(train_student(student, name, data, folder, student.updates, seed), model)
    files = {
        system: [(model_path(out, name, seed), point) for seed in SEEDS] for system, (name, point) in SYSTEMS.items()
    }
    counts = count_errors_in_parallel(files, data, "test")
    results = summarize(counts)
    write_json(out / "seeds.json", results)
    write_text(out / "seeds.md", markdown(results))
    print(markdown(results))


def summarize(counts: dict[str, list[ErrorCounts]]) -> dict[str, Any]:
    """Return the WER of each system and the differences, with intervals over seeds and over prompts."""
    return {
        "command": "python examples/quickstart/seeds.py",
        "seeds": list(SEEDS),
        "updates": {name: student.updates for name, student in SEEDED.items()},
        "wer": {name: rates(runs) for name, runs in counts.items()},
        "differences": {
            f"{second} minus {first}": difference(counts[first], counts[second]) for first, second in DIFFERENCES
        },
        "machine": describe_machine(),
    }


def markdown(results: dict[str, Any]) -> str:
    """Format the results as a table."""
    lines = [[name, *cells(each)] for part in ("wer", "differences") for name, each in results[part].items()]
    return markdown_table(["WER, %", "mean", "over seeds", "over prompts"], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "out", help="output folder (default: %(default)s)")
    args = parser.parse_args()
    try:
        run(args.out.resolve())
    except InputError as error:
        sys.exit(f"seeds: {error}")


if __name__ == "__main__":
    main()
