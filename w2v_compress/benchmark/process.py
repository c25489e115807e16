"""Starts the processes of runtimes, exchanges requests and responses with them, and keeps the machine busy."""

import contextlib
import importlib
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from ..errors import InputError
from ..openmp import environment_of_peers
from . import peers
from .peers import PeerModule, Runtime, Setting

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
SHUTDOWN_SECONDS = 10.0
BUSY = """
import os, signal, sys, threading

def end_with_parent():
    sys.stdin.read()
    os._exit(0)

signal.signal(signal.SIGINT, signal.SIG_IGN)
threading.Thread(target=end_with_parent, daemon=True).start()
print(flush=True)
value = 1.0
while True:
    value = 1.0 / (value + 1.0)
"""
"""Program that computes until its standard input ends, which it also does when the parent process is killed."""
T = TypeVar("T")


class WorkerError(Exception):
    """A runtime failed. The message is one line with the reason and does not name the runtime."""


@dataclass(frozen=True, kw_only=True)
class Response:
    """Response of a worker to one request."""

    seconds: float
    """Duration of the run."""
    peak_bytes: int
    """Peak memory of the process since its start."""
    idle_seconds: float
    """Total time that the process has waited for requests."""
    idle_processor_seconds: float
    """Processor time that its threads used while it waited."""


class Worker:
    """The process of one runtime."""

    def __init__(self, runtime: Runtime, setting: Setting) -> None:
        """Start the process; it loads the network while the caller continues."""
        # -P: import nothing from the current folder.
        command = [sys.executable, "-P", "-m", f"{__package__}.worker", runtime.module, setting.to_json()]
        self.runtime = runtime
        self.log = setting.folder / f"{runtime.name}.log"
        """File with the standard error and standard output of the process."""
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

    def run(self, audio: Sequence[Path], out: Path | None = None) -> Response:
        """Run the waveforms in the files `audio` as one batch, write the logits to `out`, and return the response.

        Raises `WorkerError` when the run fails or the process has ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {"audio": [str(path) for path in audio], "out": None if out is None else str(out)}
        with contextlib.suppress(BrokenPipeError):  # an ended process may have left an error response
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise WorkerError(self._exit_reason())
        values: dict[str, Any] = json.loads(line)
        if "error" in values:
            raise WorkerError(values["error"])
        return Response(**values)

    def close(self) -> None:
        """Close the standard input of the process, and kill the process if it does not exit then."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # the process ended before it read a request
            self._process.stdin.close()
        try:
            self._process.wait(SHUTDOWN_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _exit_reason(self) -> str:
        """Return the exit status or signal of the process, and the last line that it printed."""
        status = self._process.wait()
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        printed = self.log.read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line.strip() for line in reversed(printed) if line.strip()), "")
        return f"its process {how}" + (f": {last}" if last else "")


def _environment(runtime: Runtime) -> dict[str, str]:
    """Return the environment of the process; only our runtime gets the OpenMP spin count that this package sets."""
    return dict(os.environ) if runtime in peers.OURS else environment_of_peers()


def convert_for(runtime: Runtime, setting: Setting) -> str | None:
    """Convert the model for `runtime` in a new process; returns None, or the reason why this failed."""
    try:
        in_new_process(_convert, runtime.module, setting)
    except InputError as error:
        return str(error)
    except Exception as error:  # any error of the library, or a killed process, excludes only this runtime
        return " ".join(f"{type(error).__name__}: {error}".split())
    return None


def in_new_process(function: Callable[..., T], *arguments: Any) -> T:
    """Call `function` in a new process, which frees its memory at the end; returns or raises what the call does."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def _convert(module: str, setting: Setting) -> None:
    """Call `convert` of a `PeerModule`, with everything that it prints written to a log file."""
    with (setting.folder / "convert.log").open("a", encoding="utf-8") as log:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(log.fileno(), stream.fileno())
    cast(PeerModule, importlib.import_module(module)).convert(setting)


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Run `count` processes that compute without pause inside the context; they end with it, however it is left."""
    with contextlib.ExitStack() as stack:
        processes = []
        for _ in range(count):
            command = [sys.executable, "-c", BUSY]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            processes.append(stack.enter_context(process))  # waits for its end
            stack.callback(process.kill)
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()  # it has started to compute
        yield
