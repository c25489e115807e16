"""The process of one runtime, which `Worker` of `peers.process` starts and asks.

    python -m w2v_compress.benchmark.worker MODULE SETTING

SETTING is a JSON object with the fields of `Setting`. Then each line of standard input is a request, a JSON object, and
each line of standard output the answer to one. A request is `{"audio": [FILE.npy, ...], "out": FILE.npz or null}`: run
these waveforms as one batch. The answer says how long that took and what the process has used so far; see `answer`.
An error is the answer `{"error": "..."}`, after which the process ends with status 1. It ends with its input, too.
"""

import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, cast

import numpy as np

from ..memory import peak_memory
from .peers import PeerModule, Run, Setting


def main() -> None:
    """Load, then answer until there are no more requests."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no answer
    try:
        values = json.loads(sys.argv[2])
        setting = Setting(**values | {name: Path(values[name]) for name in ("model", "folder")})
        run = cast(PeerModule, importlib.import_module(sys.argv[1])).load(setting)
        idle = Idleness()
        for line in sys.stdin:
            idle.end()
            _write(answers, answer(run, json.loads(line)) | idle.to_dict())
            idle.begin()
    except Exception as error:  # whatever it is, the process that asked is to know
        _write(answers, {"error": " ".join(f"{type(error).__name__}: {error}".split())})
        sys.exit(1)


def answer(run: Run, request: dict[str, Any]) -> dict[str, Any]:
    """`seconds` of one run, and `peak_bytes`, the most memory that the process has held.

    Reading the audio and writing the logits are not timed.
    """
    waveforms = [np.load(path, allow_pickle=False) for path in request["audio"]]
    began = time.perf_counter()
    logits = run(waveforms)
    seconds = time.perf_counter() - began
    if request["out"] is not None:
        np.savez(request["out"], *logits)
    return {"seconds": seconds, "peak_bytes": peak_memory()}


class Idleness:
    """Time spent waiting for requests, and the processor time that went by in it: threads that wait by spinning."""

    def __init__(self) -> None:
        self.seconds = self.processor_seconds = 0.0
        self.begin()

    def begin(self) -> None:
        """The process starts to wait."""
        self._began = time.perf_counter(), time.process_time()

    def end(self) -> None:
        """A request has come."""
        self.seconds += time.perf_counter() - self._began[0]
        self.processor_seconds += time.process_time() - self._began[1]

    def to_dict(self) -> dict[str, float]:
        """For JSON."""
        return {"idle_seconds": self.seconds, "idle_processor_seconds": self.processor_seconds}


def _write(answers: Any, values: dict[str, Any]) -> None:
    print(json.dumps(values), file=answers, flush=True)


if __name__ == "__main__":
    main()
