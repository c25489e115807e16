"""Run long commands one after the other: finished ones are skipped the next time, and their states are in a file."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from w2v_compress.cli.console import print_table
from w2v_compress.files import write_json

ROOT = Path(__file__).resolve().parents[1]
GRACE = 60
"""Seconds that a step has to save and end after SIGTERM."""


@dataclass(frozen=True)
class Step:
    """A command with its result. It is run in the repository's root, with the programs of this environment."""

    name: str
    command: list[str]
    result: Path
    """File that it writes, or the folder of a step that goes on."""
    environment: dict[str, str] = field(default_factory=dict)
    missing: str = ""
    """Option of the data that it lacks, if any."""


def run_step(step: Step, seconds: float | None, log: Path) -> str:
    """Run a step for at most `seconds`, None without a limit, and return what became of it."""
    if step.missing:
        return f"left out: no {step.missing}"
    step.result.parent.mkdir(parents=True, exist_ok=True)
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    environment = os.environ | {"PATH": programs} | step.environment
    with log.open("a") as output:
        process = subprocess.Popen(
            step.command, env=environment, cwd=ROOT, stdout=output, stderr=output, start_new_session=True
        )
        try:
            status = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            _end(process)
            return "out of time, goes on next time"
        except KeyboardInterrupt:
            _end(process)
            raise
    if status:
        return f"failed with status {status}: {log}"
    return "done" if step.result.exists() else f"wrote no {step.result}: {log}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a command and all that it started."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=GRACE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)


def run_steps(
    steps: Iterable[Step],
    out: Path,
    title: str,
    minutes: float | None = None,
    finish: Callable[[Step], None] = lambda step: None,
) -> bool:
    """Run the steps that are not finished, then print a table of all states; return whether none has failed.

    Args:
        steps: The steps, in order.
        out: The folder for the logs and for state.json, the states by step.
        title: The title of the table.
        minutes: The time for all steps; None for no limit.
        finish: Called after a step that is done.
    """
    out.mkdir(parents=True, exist_ok=True)
    end = None if minutes is None else time.monotonic() + 60 * minutes
    file = out / "state.json"
    states = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    for step in steps:
        if states.get(step.name, {}).get("state") == "done":
            continue
        start = time.monotonic()
        left = None if end is None else end - start
        log = out / f"{step.name.replace(' ', '_')}.log"
        state = run_step(step, left, log) if left is None or left > 0 else "no time"
        if state == "done":
            finish(step)
        states[step.name] = {"state": state, "seconds": round(time.monotonic() - start, 1), "result": str(step.result)}
        write_json(file, states)
    print_table(
        title,
        ["step", "state", "seconds"],
        [[name, state["state"], f"{state['seconds']:.0f}"] for name, state in states.items()],
    )
    return not any(state["state"].startswith(("failed", "wrote no")) for state in states.values())
