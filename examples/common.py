"""What the examples share: a run of fairseq with its progress, and what is shown."""

import os
import re
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from w2v_compress.compat import user_dir
from w2v_compress.errors import InputError
from w2v_compress.evaluation.wer import Interval

console = Console()


def say(text: str) -> None:
    console.print(f"[bold]{text}[/bold]")


def update_bars() -> Progress:
    """Bars of trainings: what is trained, updates done, time."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total} updates"))
    return Progress(*columns, TimeElapsedColumn(), console=console)


def file_name(name: str) -> str:
    """`Student, CTC alone` -> `student-ctc-alone`"""
    return re.sub(r"[^a-z0-9]+", "-", name.lower())


def train(
    config: Path,
    overrides: list[str],
    folder: Path,
    updates: int,
    *,
    threads: int | None = None,
    progress: Callable[[int], None] = lambda updates: None,
) -> Path:
    """Run fairseq-hydra-train with the yaml `config` in `folder`; it goes on where it was interrupted.

    `threads` is torch's number of threads, by default torch's own choice; `progress` gets the updates done. Returns
    the last checkpoint; what fairseq says is added to `folder`/log.txt. Raises `InputError` when the training fails.
    """
    command = [str(Path(sys.executable).with_name("fairseq-hydra-train")), "--config-dir", str(config.parent)]
    command += ["--config-name", config.stem, f"hydra.run.dir={folder}", f"checkpoint.save_dir={folder}"]
    command += [f"common.user_dir={user_dir()}", f"optimization.max_update={updates}", *overrides]
    environment = dict(os.environ) if threads is None else {**os.environ, "OMP_NUM_THREADS": str(threads)}
    folder.mkdir(parents=True, exist_ok=True)
    last_lines: deque[str] = deque(maxlen=20)
    with (
        open(folder / "log.txt", "a", encoding="utf-8") as log,
        subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            log.write(line)
            last_lines.append(line)
            if done := re.search(r'"num_updates": "(\d+)"', line):
                progress(int(done[1]))
    if process.returncode:
        raise InputError(f"training failed; see {folder / 'log.txt'}. Its end:\n{''.join(last_lines)}")
    return folder / "checkpoint_last.pt"


def percent(interval: dict[str, float] | Interval) -> str:
    """An interval, or the dictionary that JSON keeps of it, as `12.34% [11.20, 13.50]`."""
    return (interval if isinstance(interval, Interval) else Interval(**interval)).percent()
