"""Everything that needs a GPU, in order of worth and within a time: tests, speed of training, the teacher, the claims.

    python benchmarks/gpu.py --minutes 30 --speech SPEECHOCEAN762 --digits FSDD    # or make gpu MINUTES=30
    python benchmarks/gpu.py --device cpu --minutes 10                             # try the commands on a CPU

Steps that are finished are skipped when it is run again; the teacher's training goes on where it was. A step without
its data is left out and named. Prints a table, and writes the states of the steps to OUT/state.json.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from w2v_compress.cli.console import print_table
from w2v_compress.files import write_json

ROOT = Path(__file__).resolve().parents[1]
GRACE = 60
"""Seconds that a step has to save and end after SIGTERM."""


@dataclass(frozen=True)
class Step:
    """A command with its result."""

    name: str
    command: list[str]
    result: Path
    """File that it writes, or the folder of a step that goes on."""
    environment: dict[str, str] = field(default_factory=dict)
    missing: str = ""
    """Option of the data that it lacks, if any."""


def steps(arguments: argparse.Namespace) -> Iterator[Step]:
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


def run(step: Step, seconds: float, log: Path) -> str:
    """Run a step for at most `seconds`, and return what became of it."""
    if step.missing:
        return f"left out: no {step.missing}"
    step.result.parent.mkdir(parents=True, exist_ok=True)
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"  # of this environment
    environment = os.environ | {"PATH": programs} | step.environment
    with log.open("a") as output:
        process = subprocess.Popen(
            step.command, env=environment, cwd=ROOT, stdout=output, stderr=output, start_new_session=True
        )
        try:
            status = process.wait(timeout=max(1.0, seconds))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(timeout=GRACE)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
            return "out of time, goes on next time"
    if status:
        return f"failed with status {status}: {log}"
    return "done" if step.result.exists() else f"wrote no {step.result}: {log}"


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
    arguments.out.mkdir(parents=True, exist_ok=True)
    end, file = time.monotonic() + 60 * arguments.minutes, arguments.out / "state.json"
    states = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    for step in steps(arguments):
        if states.get(step.name, {}).get("state") == "done":
            continue
        start = time.monotonic()
        state = (
            run(step, end - start, arguments.out / f"{step.name.replace(' ', '_')}.log") if start < end else "no time"
        )
        states[step.name] = {"state": state, "seconds": round(time.monotonic() - start, 1), "result": str(step.result)}
        write_json(file, states)
    rows = [[name, state["state"], f"{state['seconds']:.0f}"] for name, state in states.items()]
    print_table(f"GPU runs on {arguments.device}", ["step", "state", "seconds"], rows)
    if any(state["state"].startswith(("failed", "wrote no")) for state in states.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
