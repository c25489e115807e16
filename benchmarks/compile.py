"""Start-up cost and speed of torch.compile, compared with our optimized network, on audio of varying length.

    python benchmarks/compile.py --json benchmarks/results/compile.json

Random weights, batch 1. Only the encoder is compiled, with packed weights ("freezing") and dynamic shapes: the
extractor loops over the audio, and torch would unroll this loop for every length. The start-up cost is the time of the
first passes over all lengths, minus that of warm passes. A new length may trigger another compilation, which shows in
the slowest first pass after the first one. Prints a table, and writes the times with --json.
"""

import argparse
import copy
import time
from functools import partial
from pathlib import Path

import torch
import torch._inductor.config as inductor
from torch import Tensor, nn
from w2v_compress.runtime.optimize import optimize_for_inference

from w2v_compress.cli.console import print_table
from w2v_compress.data.audio import SAMPLE_RATE
from w2v_compress.evaluation.machine import describe_machine, interleaved_latency
from w2v_compress.files import write_json
from w2v_compress.nn.acoustic_model import AcousticModel
from w2v_compress.nn.architecture import named_architecture

SECONDS = (10.0, 2.0, 5.3, 7.7, 3.1, 14.2)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def main() -> None:
    """Run the benchmark, print a table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the results to this JSON file")
    parser.add_argument("--architecture", default="base")
    parser.add_argument("--precision", choices=tuple(DTYPES), nargs="+", default=tuple(DTYPES))
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    inductor.freezing = True
    inductor.force_disable_caches = True  # a cache on disk from an earlier run would shorten the start-up
    measured = [
        measure(arguments.architecture, precision, arguments.repeats, arguments.seed)
        for precision in arguments.precision
    ]
    if arguments.json:
        command = f"python benchmarks/compile.py --architecture {arguments.architecture}"
        settings = {"repeats": arguments.repeats, "seed": arguments.seed, "audio_seconds": SECONDS}
        results = {"machine": describe_machine(), "precisions": measured}
        write_json(arguments.json, {"command": command, **settings, **results})


@torch.inference_mode()
def measure(architecture: str, precision: str, repeats: int, seed: int) -> dict[str, object]:
    """Measure one precision, print its table, and return the results."""
    torch.manual_seed(seed)
    dtype = DTYPES[precision]
    plain = AcousticModel(named_architecture(architecture)).eval().requires_grad_(False).to(dtype)
    prepared, compiled = copy.deepcopy(plain), copy.deepcopy(plain)
    optimize_for_inference(prepared)
    optimize_for_inference(compiled)
    compiled.w2v_model.encoder = torch.compile(plain.w2v_model.encoder, dynamic=True)
    audio = [torch.randn(1, round(seconds * SAMPLE_RATE)).to(dtype) for seconds in SECONDS]
    runs: dict[str, nn.Module] = {"prepared": prepared, "compiled": compiled}
    first = {name: [first_pass(run, samples) for samples in audio] for name, run in runs.items()}
    calls = [{name: partial(run, samples) for name, run in runs.items()} for samples in audio]
    medians = [interleaved_latency(each, repeats) for each in calls]
    warm = {name: [each[name] for each in medians] for name in runs}
    # For the network that is not compiled the difference may be negative because of noise.
    start = {name: max(0.0, sum(first[name]) - sum(warm[name]) / 1000) for name in runs}
    saved = (sum(warm["prepared"]) - sum(warm["compiled"])) / 1000 / sum(SECONDS)
    break_even = start["compiled"] / saved / 3600 if saved > 0 else None
    rows = [["start-up", *(f"{start[name]:.1f} s" for name in runs)]]
    rows += [["slowest later first pass", *(f"{max(first[name][1:]):.2f} s" for name in runs)]]
    rows += [[f"{s:g} s of audio", *(f"{warm[name][i]:.0f} ms" for name in runs)] for i, s in enumerate(SECONDS)]
    print_table(f"{architecture} in {precision}, {torch.get_num_threads()} threads", ["", *runs], rows)
    after = f"after {break_even:.1f} hours of audio" if break_even else "never"
    print(f"Break-even of compilation: {after}.")
    return {
        "precision": precision,
        "first_seconds": first,
        "warm_milliseconds": warm,
        "start_seconds": start,
        "hours_of_audio_to_win_back": break_even,
    }


def first_pass(run: nn.Module, samples: Tensor) -> float:
    """Return the seconds of the first pass of `run` over audio of this length."""
    start = time.perf_counter()
    run(samples)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
