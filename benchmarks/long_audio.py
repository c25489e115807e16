"""Peak memory and speed on a long file and a short one, and the effect of the window boundaries.

    python benchmarks/long_audio.py path/to/recordings

Joins recordings of a folder in random order into files of 60 s and of `--hours`, and runs `w2v-compress transcribe` on
each in a separate process. Transcribes a third file in windows and in one pass, and compares the best label of each
frame, over all frames and over those further from a boundary than the context by which windows overlap. Without --model
the weights are random, on which memory and time do not depend. Writes benchmarks/results/long_audio.json, or the file
of --json. Exits with status 1 when the long file needs over 300 MB more memory than the short one.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from w2v_compress.cli.console import print_table
from w2v_compress.data.audio import SAMPLE_RATE, read_audio
from w2v_compress.errors import InputError
from w2v_compress.evaluation.report import megabytes
from w2v_compress.files import write_json
from w2v_compress.interop.fairseq_checkpoint import export_random
from w2v_compress.runtime.recognizer import Recognizer
from w2v_compress.runtime.windows import CHUNK_SECONDS, CONTEXT_SECONDS

SHORT_SECONDS = 60.0
MAX_GROWTH = 300_000_000
SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")


def join_recordings(recordings: list[Path], seconds: float, path: Path, generator: np.random.Generator) -> None:
    """Write randomly drawn recordings, one after the other, as a 16 kHz wav file of `seconds`."""
    missing = round(seconds * SAMPLE_RATE)
    with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1) as file:
        while missing:
            samples = read_audio(recordings[generator.integers(len(recordings))])[:missing]
            file.write(samples)
            missing -= len(samples)


def transcribe_alone(model: Path, audio: Path, options: list[str]) -> dict[str, Any]:
    """Run `w2v-compress transcribe` on one file in a new process; returns its memory, times and text length."""
    report = audio.with_suffix(".json")
    program = [sys.executable, "-c", "from w2v_compress.cli import main; main()"]
    began = time.perf_counter()
    command = [*program, "transcribe", str(model), str(audio), "--json", str(report), *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    elapsed = time.perf_counter() - began
    values = json.loads(report.read_text())
    (transcript,) = values["transcripts"]
    return {
        "audio_seconds": transcript["audio_seconds"],
        "peak_memory_bytes": values["peak_memory_bytes"],
        "compute_seconds": transcript["compute_seconds"],
        "real_time_factor": transcript["compute_seconds"] / transcript["audio_seconds"],
        "process_seconds": elapsed,
        "characters": len(transcript["text"]),
        "precision": values["precision"],
        "machine": values["machine"],
    }


def compare_with_one_pass(recognizer: Recognizer, audio: Path) -> dict[str, Any]:
    """Compute the fraction of the frames of `audio` with the same best label in windows and in one pass."""
    samples = read_audio(audio)
    point = recognizer.checked_point()
    windows = recognizer.windows(len(samples), point)
    joined = recognizer.emissions(samples, SAMPLE_RATE)
    recognizer.chunk_seconds = math.inf
    whole = recognizer.emissions(samples, SAMPLE_RATE)
    equal = joined.argmax(-1) == whole.argmax(-1)
    frames = np.arange(len(equal))
    seams = list(accumulate(window.kept.stop - window.kept.start for window in windows))[:-1]
    context = CONTEXT_SECONDS * SAMPLE_RATE / recognizer.header.architecture.samples_per_frame
    away = np.all([np.abs(frames - seam) > context for seam in seams], 0)
    return {
        "audio_seconds": len(samples) / SAMPLE_RATE,
        "windows": len(windows),
        "frames": len(equal),
        "frames_away_from_seams": int(away.sum()),
        "equal_best_label": float(equal.mean()),
        "equal_best_label_away_from_seams": float(equal[away].mean()),
        "largest_log_probability_difference_away_from_seams": float(np.abs(joined - whole)[away].max()),
    }


def print_results(files: list[dict[str, Any]], seams: dict[str, Any]) -> None:
    """Print memory, speed and equal labels."""
    rows = [
        [f"{file['audio_seconds']:g} s", megabytes(file["peak_memory_bytes"]), f"{file['real_time_factor']:.4f}"]
        for file in files
    ]
    print_table(f"Separate processes, {files[0]['precision']}", ["file", "peak memory", "real-time factor"], rows)
    print(f"growth: {megabytes(files[1]['peak_memory_bytes'] - files[0]['peak_memory_bytes'])}")
    print(
        f"same best label as in one pass over {seams['audio_seconds']:g} s: {seams['equal_best_label']:.2%} of all "
        f"frames, {seams['equal_best_label_away_from_seams']:.2%} of those over {CONTEXT_SECONDS:g} s from a boundary"
    )


def main() -> None:
    """Run the benchmark, print the results and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder with recordings, searched recursively")
    parser.add_argument("--model", type=Path, help="model file; by default random weights")
    parser.add_argument("--architecture", default="base", help="architecture of the random weights")
    parser.add_argument("--hours", type=float, default=1.0, help="length of the long file")
    parser.add_argument("--compared-seconds", type=float, default=90.0, help="length of the third file; over 30")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/long_audio.json"))
    arguments = parser.parse_args()
    if arguments.compared_seconds <= CHUNK_SECONDS:
        parser.error(f"--compared-seconds must be over {CHUNK_SECONDS:g}, the length of a window")
    recordings = sorted(path for path in arguments.folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not recordings:
        sys.exit(f"{arguments.folder}: contains no recordings ({', '.join(SUFFIXES)})")
    options = ["--precision", arguments.precision]
    options += ["--threads", str(arguments.threads)] if arguments.threads else []
    generator = np.random.default_rng(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = arguments.model or folder / "random.safetensors"
        if not arguments.model:
            export_random(arguments.architecture, model, arguments.seed)
        paths = [folder / f"{part}.wav" for part in ("short", "long", "compared")]
        lengths = (SHORT_SECONDS, 3600 * arguments.hours, arguments.compared_seconds)
        for path, seconds in zip(paths, lengths, strict=True):
            join_recordings(recordings, seconds, path, generator)
        files = [transcribe_alone(model, path, options) for path in paths[:2]]
        recognizer = Recognizer.load(model, precision=arguments.precision, threads=arguments.threads)
        seams = compare_with_one_pass(recognizer, paths[2])
    print_results(files, seams)
    growth = files[1]["peak_memory_bytes"] - files[0]["peak_memory_bytes"]
    machines = [file.pop("machine") for file in files]
    result = {
        "command": "python benchmarks/long_audio.py FOLDER",
        "recordings": f"{len(recordings)} of {arguments.folder.resolve().name}",
        "model": arguments.model.name if arguments.model else f"{arguments.architecture}, random weights",
        "seed": arguments.seed,
        "machine": machines[0],
        "files": files,
        "growth_bytes": growth,
        "seams": seams,
    }
    write_json(arguments.json, result)
    if growth > MAX_GROWTH:
        sys.exit(f"the long file needs {megabytes(growth)} more than the short one; at most {megabytes(MAX_GROWTH)}")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(str(error))
