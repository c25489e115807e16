"""The processes of runtimes, as the one that compares them sees them."""

import contextlib
import importlib
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from ..errors import InputError
from ..openmp import environment_of_peers
from .peers import OURS, PeerModule, Runtime, Setting

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
SECONDS_TO_END = 10.0
T = TypeVar("T")


class WorkerError(Exception):
    """A runtime failed. The message says why, in one line, and names no runtime."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a worker says after a run, see `peers.worker.answer`."""

    seconds: float
    peak_bytes: int
    idle_seconds: float
    idle_processor_seconds: float


class Worker:
    """One runtime in its process, from when this is made to `close`."""

    def __init__(self, runtime: Runtime, setting: Setting) -> None:
        values = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(setting).items()}
        # -P: nothing is imported from the folder that the command happens to be given in.
        command = [sys.executable, "-P", "-m", f"{__package__}.worker", runtime.module, json.dumps(values)]
        self.runtime = runtime
        self.log = setting.folder / f"{runtime.name}.log"
        """What it prints on its standard error."""
        self.started = time.perf_counter()
        with self.log.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=_environment(runtime) | dict.fromkeys(THREAD_VARIABLES, str(setting.threads)),
            )

    def run(self, audio: Sequence[Path], out: Path | None = None) -> Answer:
        """Run the waveforms in these files as one batch, and write what they give to `out`; waits for the answer.

        Raises `WorkerError` when the process fails or is gone.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {"audio": [str(path) for path in audio], "out": None if out is None else str(out)}
        with contextlib.suppress(BrokenPipeError):  # what it said before it ended is still there to be read
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise WorkerError(self._end())
        values: dict[str, Any] = json.loads(line)
        if "error" in values:
            raise WorkerError(values["error"])
        return Answer(**values)

    def close(self) -> None:
        """End the process, by force where it does not end with its input."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it is gone, with a request that it never read
            self._process.stdin.close()
        try:
            self._process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _end(self) -> str:
        """How the process ended, and the last that it printed."""
        status = self._process.wait()
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        printed = self.log.read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line.strip() for line in reversed(printed) if line.strip()), "")
        return f"its process {how}" + (f": {last}" if last else "")


def _environment(runtime: Runtime) -> dict[str, str]:
    return dict(os.environ) if runtime in OURS else environment_of_peers()


def prepare(runtime: Runtime, setting: Setting) -> str | None:
    """`PeerModule.prepare` of the runtime; gives why it cannot be, or None."""
    try:
        in_own_process(_prepare, runtime.module, setting)
    except InputError as error:
        return str(error)
    except Exception as error:  # of another library, or the process was killed: the other runtimes go on
        return " ".join(f"{type(error).__name__}: {error}".split())
    return None


def in_own_process(function: Callable[..., T], *arguments: Any) -> T:
    """What `function` gives, or raises, in a process that takes the memory that this needs with it."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def _prepare(module: str, setting: Setting) -> None:
    with (setting.folder / "prepare.log").open("a", encoding="utf-8") as log:
        for stream in (sys.stdout, sys.stderr):  # what exporters say is of no use where this is called
            os.dup2(log.fileno(), stream.fileno())
    cast(PeerModule, importlib.import_module(module)).prepare(setting)
