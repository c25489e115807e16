"""Our runtime and OpenVINO on a quiet machine and a busy one, with the spin count of OpenMP that we choose and others.

    python benchmarks/busy.py --json benchmarks/results/busy.json

Each runtime is a process of its own, batch 1, in turns. Then as many processes as there are cores do nothing but keep
them busy, and the same turns are taken again; and once more without them, to see what the machine did meanwhile.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from w2v_compress.benchmark.peers import OURS, PEERS, Runtime, Setting
from w2v_compress.benchmark.process import Worker, in_own_process, prepare
from w2v_compress.cli.console import print_table, progress_bar
from w2v_compress.cores import available_cores
from w2v_compress.data.audio import SAMPLE_RATE
from w2v_compress.evaluation.machine import describe_machine
from w2v_compress.files import write_json
from w2v_compress.interop.fairseq_checkpoint import export_random
from w2v_compress.openmp import LIBGOMP_SPIN_COUNT, SPIN_COUNT

PEER = "openvino-bf16"
PAUSE = 0.05


@contextmanager
def busy_neighbours(count: int) -> Iterator[None]:
    """Processes that each keep a core busy."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        time.sleep(1)
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def start(runtime: Runtime, setting: Setting, spin_count: str) -> Worker:
    os.environ["GOMP_SPINCOUNT"] = spin_count
    try:
        return Worker(runtime, setting)
    finally:
        del os.environ["GOMP_SPINCOUNT"]


def measure(model: Path, folder: Path, seconds: float, repeats: int, spin_counts: list[str]) -> list[dict[str, Any]]:
    """A row for each runtime and spin count: milliseconds of each run, quiet and busy."""
    audio = folder / "audio.npy"
    samples = np.random.default_rng(0).normal(scale=0.1, size=round(seconds * SAMPLE_RATE))
    np.save(audio, samples.astype(np.float32))
    ours = [runtime for runtime in OURS if runtime.precision != "fp32"]
    with ExitStack() as stack:
        rows: list[tuple[dict[str, Any], Worker]] = []
        for runtime in (*ours, PEERS[PEER]):
            setting = Setting(
                model=model, folder=folder, precision=runtime.precision, threads=available_cores(), point="1,1,1"
            )
            reason = prepare(runtime, setting)
            if reason is not None:
                sys.exit(f"{runtime.name}: {reason}")
            for spin_count in spin_counts if runtime in ours else [LIBGOMP_SPIN_COUNT]:
                worker = stack.enter_context(closing(start(runtime, setting, spin_count)))
                worker.run([audio])
                row = {"runtime": runtime.name, "seconds": seconds, "quiet": [], "busy": [], "quiet_after": []}
                rows.append((row | {"spin_count": spin_count if runtime in ours else None}, worker))

        def turns(name: str) -> None:
            for _ in range(repeats):
                for row, worker in rows:
                    row[name].append(1000 * worker.run([audio]).seconds)
                    time.sleep(PAUSE)

        with progress_bar(f"{seconds:g} s of audio") as progress:
            turns("quiet")
            progress(1, 3)
            with busy_neighbours(available_cores()):
                turns("busy")
            progress(2, 3)
            turns("quiet_after")
    return [row for row, _ in rows]


def lines(rows: list[dict[str, Any]]) -> list[list[str]]:
    peer = {row["seconds"]: statistics.median(row["busy"]) for row in rows if row["runtime"] == PEER}
    return [
        [
            f"{row['seconds']:g} s",
            row["runtime"],
            row["spin_count"] or "-",
            f"{statistics.median(row['quiet'] + row['quiet_after']):.1f}",
            f"{statistics.median(row['busy']):.0f}",
            f"{max(row['busy']):.0f}",
            f"{statistics.median(row['busy']) / peer[row['seconds']]:.2f}",
        ]
        for row in rows
    ]


def main() -> None:
    """Measure, show and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--model", type=Path, help="a floating-point model file; by default base with random weights")
    parser.add_argument("--seconds", type=float, nargs="+", default=[2.0, 10.0], help="of audio")
    parser.add_argument("--repeats", type=int, default=15, help="of each of the three rounds")
    parser.add_argument("--spin-counts", nargs="+", default=[LIBGOMP_SPIN_COUNT, SPIN_COUNT, "0"], metavar="N")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = arguments.model
        if model is None:
            model = folder / "base.safetensors"
            in_own_process(export_random, "base", model)
        for seconds in arguments.seconds:
            rows += measure(model.resolve(), folder, seconds, arguments.repeats, arguments.spin_counts)
    columns = ["audio", "runtime", "spin count", "quiet, ms", "busy, ms", "longest", f"over {PEER}, busy"]
    print_table("Medians", columns, lines(rows))
    if arguments.json:
        settings = {"model": str(arguments.model or "base, random weights"), "repeats": arguments.repeats}
        settings |= {"neighbours": available_cores(), "threads": available_cores()}
        command = {"command": "python benchmarks/busy.py"}
        write_json(arguments.json, command | settings | {"machine": describe_machine(), "rows": rows})


if __name__ == "__main__":
    main()
