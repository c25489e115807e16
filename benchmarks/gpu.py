"""Everything that needs a GPU, in order of worth and within a time: tests, speed of training, the teacher, the claims.

    python benchmarks/gpu.py --minutes 30 --speech SPEECHOCEAN762 --digits FSDD    # or make gpu MINUTES=30
    python benchmarks/gpu.py --device cpu --minutes 10                             # try the commands on a CPU

Steps that are finished are skipped when it is run again; the teacher's training goes on where it was. A step without
its data is left out and named. Prints a table, and writes the states of the steps to OUT/state.json.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "benchmarks"))

from steps import Step, run_steps  # noqa: E402


def gpu_steps(arguments: argparse.Namespace) -> Iterator[Step]:
    """Yield the steps in order of worth."""
    cpu, out = arguments.device == "cpu", arguments.out
    results = out if cpu else ROOT / "benchmarks" / "results"
    pytest = [sys.executable, "-m", "pytest", "-q", str(ROOT / "tests" / "gpu"), f"--junit-xml={out / 'tests.xml'}"]
    yield Step("tests", pytest, out / "tests.xml", {"W2V_COMPRESS_GPU_TESTS": arguments.device})
    speed = results / ("training_dry_run.json" if cpu else "training_gpu.json")
    training = [sys.executable, str(ROOT / "benchmarks" / "training.py"), "--json", str(speed)]
    training += ["--repeats", "1"] if cpu else ["--device", "cuda", "--repeats", "45"]
    yield Step("speed of training", training, speed)
    data = [option for folder in arguments.speech for option in ("--speech", str(folder))]
    data += ["--digits", str(arguments.digits)] if arguments.digits else []
    updates = {"SHORT_UPDATES": "20", "MIXED_UPDATES": "20", "LAST_UPDATES": "20"} if cpu else {"HOURS": "0.3"}
    teacher = out / "teacher" / "shipped"
    yield Step(
        "teacher",
        ["bash", str(ROOT / "examples/quickstart/train_teacher/train_teacher.sh"), str(out / "teacher"), *data],
        teacher / "teacher.pt",
        {"CPU": str(cpu).lower(), "TEACHER": str(teacher), **updates},
        missing="" if arguments.speech else "--speech",
    )
    claims = [sys.executable, str(ROOT / "examples/stochastic/digits.py"), str(arguments.digits)]
    claims += ["--out", str(out / "claims"), *(["--seeds", "1", "--quick"] if cpu else ["--gpu"])]
    yield Step("claims", claims, out / "claims" / "results.json", missing="" if arguments.digits else "--digits")


def main() -> None:
    """Run the steps, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0, help="time for all steps")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu tries the commands")
    parser.add_argument("--speech", type=Path, action="append", default=[], help="folder of speech with utterances.csv")
    parser.add_argument("--digits", type=Path, help="folder of the Free Spoken Digit Dataset")
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "gpu", help="folder for states and logs")
    arguments = parser.parse_args()
    arguments.out = arguments.out.resolve()
    if not run_steps(gpu_steps(arguments), arguments.out, f"GPU runs on {arguments.device}", arguments.minutes):
        sys.exit(1)


if __name__ == "__main__":
    main()
