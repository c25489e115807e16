"""The worker process of one runtime, started by `process.Worker`.

    python -m w2v_compress.benchmark.worker MODULE SETTING

MODULE is the name of a `PeerModule`, and SETTING what `Setting.to_json` returns. The process reads one
request per line from standard input and writes one response per line to standard output, both JSON objects. The request
`{"audio": [FILE.npy, ...], "out": FILE.npz or null}` runs the waveforms as one batch; the response has the fields of
`process.Response`. After an error the response is `{"error": "..."}`, and the process exits with status 1. When
standard input ends, it exits with status 0.
"""

import importlib
import json
import os
import sys
import time
from typing import Any, cast

import numpy as np

from ..memory import peak_memory
from .peers import PeerModule, Run, Setting


def main() -> None:
    """Load the network, then respond to requests until standard input ends."""
    responses = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # libraries print to standard output too
    try:
        run = cast(PeerModule, importlib.import_module(sys.argv[1])).load(Setting.from_json(sys.argv[2]))
        idle = IdleTime()
        for line in sys.stdin:
            idle.end()
            _write(responses, respond(run, json.loads(line)) | idle.to_dict())
            idle.begin()
    except Exception as error:  # any error of the library is reported to the parent process
        _write(responses, {"error": " ".join(f"{type(error).__name__}: {error}".split())})
        sys.exit(1)


def respond(run: Run, request: dict[str, Any]) -> dict[str, Any]:
    """Run one request, and return its `seconds` and `peak_bytes`, the peak memory of the process since its start.

    The time excludes reading the audio and writing the logits.
    """
    waveforms = [np.load(path, allow_pickle=False) for path in request["audio"]]
    began = time.perf_counter()
    logits = run(waveforms)
    seconds = time.perf_counter() - began
    if request["out"] is not None:
        np.savez(request["out"], *logits)
    return {"seconds": seconds, "peak_bytes": peak_memory()}


class IdleTime:
    """Measures the time spent waiting for requests and the processor time used meanwhile, by threads that spin."""

    def __init__(self) -> None:
        self.seconds = self.processor_seconds = 0.0
        self.begin()

    def begin(self) -> None:
        """Start the clock: the process begins to wait."""
        self._began = time.perf_counter(), time.process_time()

    def end(self) -> None:
        """Stop the clock: a request has arrived."""
        self.seconds += time.perf_counter() - self._began[0]
        self.processor_seconds += time.process_time() - self._began[1]

    def to_dict(self) -> dict[str, float]:
        """Return the totals under the names of `process.Response`."""
        return {"idle_seconds": self.seconds, "idle_processor_seconds": self.processor_seconds}


def _write(responses: Any, values: dict[str, Any]) -> None:
    """Write one response."""
    print(json.dumps(values), file=responses, flush=True)


if __name__ == "__main__":
    main()
