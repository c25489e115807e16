"""Whether torch.compile is worth its start: a network as the runtime prepares it, and compiled, at varying lengths.

    python benchmarks/compile.py --json benchmarks/results/compile.json

Random weights, batch 1. What is compiled is the encoder, with packed weights ("freezing"): the extractor goes over the
audio in a loop, which torch would unroll anew for each length. Compiled for lengths that vary, as recordings do. The
start is what the first passes over all lengths, in which torch compiles, take above warm ones. A length of a new kind
may make it compile again, which shows in the slowest of those after the first.
"""

import argparse
import copy
import time
from functools import partial
from pathlib import Path

import torch
import torch._inductor.config as inductor
from torch import Tensor, nn

from w2v_compress.cli.console import print_table
from w2v_compress.data.audio import SAMPLE_RATE
from w2v_compress.evaluation.machine import describe_machine, interleaved_latency
from w2v_compress.files import write_json
from w2v_compress.nn import AcousticModel, named_architecture
from w2v_compress.runtime.optimize import optimize_for_inference

SECONDS = (10.0, 2.0, 5.3, 7.7, 3.1, 14.2)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def main() -> None:
    """Measure, show and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--architecture", default="base")
    parser.add_argument("--precision", choices=tuple(DTYPES), nargs="+", default=tuple(DTYPES))
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    inductor.freezing = True
    inductor.force_disable_caches = True  # what an earlier run left on disk would make the start shorter
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
    """What is written of one precision, and shown."""
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
    turns = [{name: partial(run, samples) for name, run in runs.items()} for samples in audio]
    medians = [interleaved_latency(each, repeats) for each in turns]
    warm = {name: [each[name] for each in medians] for name in runs}
    # Noise may leave less than nothing of the first passes of what is not compiled.
    start = {name: max(0.0, sum(first[name]) - sum(warm[name]) / 1000) for name in runs}
    saved = (sum(warm["prepared"]) - sum(warm["compiled"])) / 1000 / sum(SECONDS)
    worth = start["compiled"] / saved / 3600 if saved > 0 else None
    rows = [["start", *(f"{start[name]:.1f} s" for name in runs)]]
    rows += [["slowest first pass after it", *(f"{max(first[name][1:]):.2f} s" for name in runs)]]
    rows += [[f"{s:g} s of audio", *(f"{warm[name][i]:.0f} ms" for name in runs)] for i, s in enumerate(SECONDS)]
    print_table(f"{architecture} in {precision}, {torch.get_num_threads()} threads", ["", *runs], rows)
    print("Its start is " + (f"won back after {worth:.1f} hours of audio." if worth else "never won back."))
    return {
        "precision": precision,
        "first_seconds": first,
        "warm_milliseconds": warm,
        "start_seconds": start,
        "hours_of_audio_to_win_back": worth,
    }


def first_pass(run: nn.Module, samples: Tensor) -> float:
    """Seconds of a pass over audio of a length that `run` has not seen."""
    start = time.perf_counter()
    run(samples)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
