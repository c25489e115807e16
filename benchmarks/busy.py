"""Latency of our runtime at several OpenMP spin counts, and of OpenVINO, on an idle and on a busy machine.

    python benchmarks/busy.py --json benchmarks/results/busy.json

Each runtime is a separate process at batch size 1; the runs are interleaved. They are repeated while one busy process
per core competes for the processor, and once more afterwards, to detect other changes of the machine. Prints the
medians, and writes the milliseconds of every run with --json.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from w2v_compress.benchmark.audio import write_audio
from w2v_compress.benchmark.peers import OURS, PEERS, Runtime, Setting
from w2v_compress.benchmark.plan import Plan
from w2v_compress.benchmark.process import Worker, busy_processes, convert_for, in_new_process
from w2v_compress.cli.console import print_table, progress_bar
from w2v_compress.cores import available_cores
from w2v_compress.evaluation.machine import describe_machine
from w2v_compress.files import write_json
from w2v_compress.interop.fairseq_checkpoint import export_random
from w2v_compress.openmp import LIBGOMP_SPIN_COUNT, SPIN_COUNT

PEER = "openvino-bf16"
PAUSE = 0.05


def start_worker(runtime: Runtime, setting: Setting, spin_count: str) -> Worker:
    """Start the process of a runtime with this spin count."""
    os.environ["GOMP_SPINCOUNT"] = spin_count
    try:
        return Worker(runtime, setting)
    finally:
        del os.environ["GOMP_SPINCOUNT"]


def measure(model: Path, folder: Path, seconds: float, repeats: int, spin_counts: list[str]) -> list[dict[str, Any]]:
    """Measure one row for each runtime and spin count: milliseconds of each run on the idle and the busy machine."""
    files = write_audio(folder, Plan(seconds=(seconds,), batch=()), None).plain
    ((audio,),) = files.cases.values()
    ours = [runtime for runtime in OURS if runtime.precision != "fp32"]
    with ExitStack() as stack:
        rows: list[tuple[dict[str, Any], Worker]] = []
        for runtime in (*ours, PEERS[PEER]):
            setting = Setting(
                model=model,
                folder=folder,
                precision=runtime.precision,
                threads=available_cores(),
                calibration=files.calibration,
            )
            reason = convert_for(runtime, setting)
            if reason is not None:
                sys.exit(f"{runtime.name}: {reason}")
            for spin_count in spin_counts if runtime in ours else [LIBGOMP_SPIN_COUNT]:
                worker = stack.enter_context(closing(start_worker(runtime, setting, spin_count)))
                worker.run([audio])
                row = {"runtime": runtime.name, "seconds": seconds, "quiet": [], "busy": [], "quiet_after": []}
                rows.append((row | {"spin_count": spin_count if runtime in ours else None}, worker))

        def run_rounds(name: str) -> None:
            for _ in range(repeats):
                for row, worker in rows:
                    row[name].append(1000 * worker.run([audio]).seconds)
                    time.sleep(PAUSE)

        with progress_bar(f"{seconds:g} s of audio") as progress:
            run_rounds("quiet")
            progress(1, 3)
            with busy_processes(available_cores()):
                run_rounds("busy")
            progress(2, 3)
            run_rounds("quiet_after")
    return [row for row, _ in rows]


def table_lines(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Format the medians of all rows."""
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
    """Run the benchmark, print a table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the results to this JSON file")
    parser.add_argument("--model", type=Path, help="floating-point model file; by default base with random weights")
    parser.add_argument("--seconds", type=float, nargs="+", default=[2.0, 10.0], help="seconds of audio")
    parser.add_argument("--repeats", type=int, default=15, help="timed runs in each of the three phases")
    parser.add_argument(
        "--spin-counts",
        nargs="+",
        default=[LIBGOMP_SPIN_COUNT, SPIN_COUNT, "0"],
        metavar="N",
        help="OpenMP spin counts",
    )
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = arguments.model
        if model is None:
            model = folder / "base.safetensors"
            in_new_process(export_random, "base", model)
        for seconds in arguments.seconds:
            rows += measure(model.resolve(), folder, seconds, arguments.repeats, arguments.spin_counts)
    columns = ["audio", "runtime", "spin count", "idle, ms", "busy, ms", "busy, max", f"relative to {PEER}"]
    print_table("Medians", columns, table_lines(rows))
    if arguments.json:
        settings = {"model": str(arguments.model or "base, random weights"), "repeats": arguments.repeats}
        settings |= {"neighbours": available_cores(), "threads": available_cores()}
        command = {"command": "python benchmarks/busy.py"}
        write_json(arguments.json, command | settings | {"machine": describe_machine(), "rows": rows})


if __name__ == "__main__":
    main()
