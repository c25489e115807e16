"""Throughput on many utterances of different lengths: hours of audio per core and hour, and the scaling over cores.

    python benchmarks/throughput.py MODEL.safetensors DATA --json benchmarks/results/throughput.json

MODEL is a floating-point model file, DATA a folder of manifests whose subset `train` is cut into utterances of 2 to 12
seconds. Measures our runtime in fp32 and calibrated int8 with one thread, and with as many threads and streams as
cores; several recognizers with a thread each, called from threads and from asyncio; and OpenVINO with NNCF's int8
(`openvino-int8` of `w2v-compress benchmark`), one utterance at a time, with one stream a core and the hint THROUGHPUT.
Prints a table, and writes the results with --json.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from w2v_compress.benchmark.audio import WaveformWriter
from w2v_compress.benchmark.peers import PEERS, Setting, ours, transformers
from w2v_compress.benchmark.peers import openvino as openvino_peer
from w2v_compress.benchmark.process import convert_for, in_new_process
from w2v_compress.cli.console import print_table, progress_bar
from w2v_compress.cores import available_cores
from w2v_compress.data.audio import SAMPLE_RATE, AudioArray, read_audio
from w2v_compress.data.manifest import read_manifest
from w2v_compress.data.normalization import normalize
from w2v_compress.evaluation.machine import describe_machine
from w2v_compress.files import write_json
from w2v_compress.model_file.tensor_file import read_header
from w2v_compress.runtime.engines.names import EngineName
from w2v_compress.runtime.precision import Precision
from w2v_compress.runtime.recognizer import Recognizer

SECONDS = (2.0, 12.0)
CALIBRATION_UTTERANCES = 20
OPENVINO_INT8 = PEERS["openvino-int8"]
Runs = dict[str, Callable[[], object]]


def cut(data: Path, seconds: float, seed: int) -> list[AudioArray]:
    """Cut the speech of the subset `train`, repeated, into utterances of random lengths that last `seconds`."""
    speech = np.concatenate([read_audio(utterance.path) for utterance in read_manifest(data, "train")])
    generator = np.random.default_rng(seed)
    lengths: list[int] = []
    while sum(lengths) < seconds * SAMPLE_RATE:
        lengths.append(round(generator.uniform(*SECONDS) * SAMPLE_RATE))
    return np.split(np.resize(speech, sum(lengths)), np.cumsum(lengths)[:-1])


def dealt(waveforms: Sequence[AudioArray], parts: int) -> list[list[AudioArray]]:
    """Divide the utterances into parts of about the same duration: the longest goes to the shortest part."""
    divided: list[list[AudioArray]] = [[] for _ in range(parts)]
    for waveform in sorted(waveforms, key=len, reverse=True):
        min(divided, key=lambda part: sum(map(len, part))).append(waveform)
    return divided


def our_runs(name: str, path: Path, precision: Precision, waveforms: Sequence[AudioArray], cores: int) -> Runs:
    """Return the runs of our runtime."""

    def load(threads: int, streams: int, engine: EngineName = "openvino") -> Recognizer:
        return Recognizer.load(path, engine=engine, precision=precision, threads=threads, streams=streams)

    one, all_cores, single = load(1, 1), load(cores, cores), [load(1, 1) for _ in range(cores)]
    parts = dealt(waveforms, cores)

    def in_threads() -> None:
        with ThreadPoolExecutor(cores) as pool:
            list(pool.map(lambda index: single[index].transcribe(parts[index], SAMPLE_RATE), range(cores)))

    async def gather() -> None:
        calls = (
            asyncio.to_thread(each.transcribe, part, SAMPLE_RATE) for each, part in zip(single, parts, strict=True)
        )
        await asyncio.gather(*calls)

    return {
        f"{name}, 1 thread": lambda: one.transcribe(list(waveforms), SAMPLE_RATE),
        f"{name}, {cores} threads and streams": lambda: all_cores.transcribe(list(waveforms), SAMPLE_RATE),
        f"{name}, {cores} recognizers in threads": in_threads,
        f"{name}, {cores} recognizers in asyncio": lambda: asyncio.run(gather()),
    }


def nncf_runs(setting: Setting, waveforms: Sequence[AudioArray], cores: int, normalized: bool) -> Runs:
    """Return the runs of OpenVINO with NNCF's int8, with one thread and with all cores."""
    import openvino

    inputs = transformers.Inputs.read(setting.folder / transformers.FOLDER)
    batches = [inputs.batch([normalize(waveform) if normalized else waveform]).named() for waveform in waveforms]

    def compiled(threads: int) -> Callable[[], None]:
        options = {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": threads, "INFERENCE_NUM_THREADS": threads}
        model = openvino.Core().compile_model(setting.folder / openvino_peer.INT8_FILE, "CPU", options)
        queue = openvino.AsyncInferQueue(model, threads)

        def run() -> None:
            for batch in batches:
                queue.start_async(batch)
            queue.wait_all()

        return run

    return {f"OpenVINO int8 (NNCF), {threads} streams": compiled(threads) for threads in (1, cores)}


def measure(runs: Runs, repeats: int) -> dict[str, float]:
    """Return the median seconds of each run; they take turns after a warm-up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    with progress_bar("Measuring") as progress:
        for turn in range(repeats + 1):
            for index, (name, run) in enumerate(runs.items()):
                start = time.perf_counter()
                run()
                times[name].append(time.perf_counter() - start)
                progress(turn * len(runs) + index + 1, (repeats + 1) * len(runs))
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def main() -> None:
    """Run the benchmark, print a table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="floating-point model file")
    parser.add_argument("data", type=Path, help="folder of manifests with the subset train")
    parser.add_argument("--seconds", type=float, default=120.0, help="seconds of audio to transcribe")
    parser.add_argument("--repeats", type=int, default=9, help="timed runs of each")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the lengths")
    parser.add_argument("--json", type=Path, help="write the results to this JSON file")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    cores, normalized = available_cores(), read_header(arguments.model).normalize
    waveforms = cut(arguments.data, arguments.seconds, arguments.seed)
    audio_seconds = sum(map(len, waveforms)) / SAMPLE_RATE
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        writer = WaveformWriter(folder)
        speech = cut(arguments.data, 300.0, arguments.seed + 1)[:CALIBRATION_UTTERANCES]
        names = [writer.write(waveform) for waveform in speech]
        setting = Setting(
            model=arguments.model.resolve(),
            folder=folder,
            precision="int8",
            threads=cores,
            calibration=writer.files("plain", {}, names).calibration,
        )
        in_new_process(ours.convert, setting)
        kind = "normalized" if normalized else "plain"
        peer = replace(setting, calibration=writer.files(kind, {}, names).calibration)
        convert_for(OPENVINO_INT8, peer)
        runs = our_runs("ours int8", folder / ours.INT8_FILE, "int8", waveforms, cores)
        runs |= our_runs("ours fp32", setting.model, "fp32", waveforms, cores)
        runs |= nncf_runs(peer, waveforms, cores, normalized)
        seconds = measure(runs, arguments.repeats)
    rows: list[dict[str, Any]] = []
    for name, value in seconds.items():
        used = 1 if ", 1 " in name else cores
        alone = next(other for other in seconds if other.split(",")[0] == name.split(",")[0])
        rows.append(
            {
                "run": name,
                "seconds": value,
                "audio_hours_per_core_hour": audio_seconds / value / used,
                "times_one_core": seconds[alone] / value,
            }
        )
    lines = [
        [row["run"], f"{row['seconds']:.2f}", f"{row['audio_hours_per_core_hour']:.1f}", f"{row['times_one_core']:.2f}"]
        for row in rows
    ]
    print_table(
        f"{len(waveforms)} utterances, {audio_seconds:.0f} s",
        ["", "seconds", "hours of audio per core-hour", "times one core"],
        lines,
    )
    if arguments.json:
        settings = {"command": "python benchmarks/throughput.py", "model": arguments.model.name}
        settings |= {"seed": arguments.seed, "repeats": arguments.repeats, "utterances": len(waveforms)}
        machine = describe_machine(threads=cores)
        write_json(arguments.json, settings | {"audio_seconds": audio_seconds, "machine": machine, "rows": rows})


if __name__ == "__main__":
    main()
