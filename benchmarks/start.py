"""Start of a program that transcribes one file: seconds from the start of the process to the text, and peak memory.

    python benchmarks/start.py base.safetensors base-int8.safetensors --json benchmarks/results/start.json

Each model is started with the graphs in the cache of compiled graphs, and with `--no-cache`, each time in a process of
its own that imports the package, loads the model and transcribes noise. Prints a table, and writes the results with
--json.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from w2v_compress.cli.console import print_table, progress_bar
from w2v_compress.data.audio import SAMPLE_RATE
from w2v_compress.evaluation.machine import describe_machine
from w2v_compress.files import write_json

PROGRAM = """
import json, sys, w2v_compress
model = w2v_compress.load(sys.argv[1], cache=sys.argv[3] == "cache")
model.transcribe(sys.argv[2])
from w2v_compress.memory import peak_memory
print(json.dumps({"peak_bytes": peak_memory(), "precision": model.engine.precision, "torch": "torch" in sys.modules}))
"""


def start(model: Path, audio: Path, cache: str) -> tuple[float, dict[str, Any]]:
    """Start the program, and return the seconds it took and what it printed."""
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(model), str(audio), cache], capture_output=True, text=True, check=True
    )
    return time.perf_counter() - begin, json.loads(done.stdout)


def main() -> None:
    """Run the benchmark, print a table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+", help="model files")
    parser.add_argument("--seconds", default="2,30", help="seconds of audio, separated by commas")
    parser.add_argument("--repeats", type=int, default=9, help="starts of each; the median is reported")
    parser.add_argument("--json", type=Path, help="write the results to this JSON file")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, progress_bar("Starting") as progress:
        lengths = [float(text) for text in arguments.seconds.split(",")]
        cases = list(itertools.product(arguments.models, lengths, ("cache", "no")))
        for number, (model, seconds, cache) in enumerate(cases, start=1):
            audio = Path(folder) / f"{seconds:g}.wav"
            samples = 0.1 * np.random.default_rng(0).standard_normal(round(SAMPLE_RATE * seconds))
            soundfile.write(audio, samples, SAMPLE_RATE)
            start(model, audio, cache)  # fills the cache
            runs = [start(model, audio, cache) for _ in range(arguments.repeats)]
            row = {"model": model.name, "audio_seconds": seconds, "cache": cache == "cache", **runs[0][1]}
            row["seconds"] = statistics.median(run[0] for run in runs)
            row["peak_bytes"] = statistics.median(run[1]["peak_bytes"] for run in runs)
            rows.append(row)
            progress(number, len(cases))
    cells = [
        [
            row["model"],
            f"{row['audio_seconds']:g} s",
            "yes" if row["cache"] else "no",
            f"{row['seconds']:.2f}",
            f"{row['peak_bytes'] / 2**20:.0f}",
            "yes" if row["torch"] else "no",
        ]
        for row in rows
    ]
    print_table("start", ["model", "audio", "cached graphs", "seconds", "peak MiB", "imports torch"], cells)
    if arguments.json:
        report = {"command": "python benchmarks/start.py", "repeats": arguments.repeats, "machine": describe_machine()}
        write_json(arguments.json, report | {"rows": rows})


if __name__ == "__main__":
    main()
