"""Whether torch.compile is worth its start: a network as the runtime prepares it, and compiled, at varying lengths.

    python benchmarks/compile.py --json benchmarks/results/compile.json

Random weights, batch 1. What is compiled is the encoder, with packed weights ("freezing"): the extractor goes over the
audio in a loop, which torch would unroll anew for each length. Compiled for lengths that vary, as recordings do. The
start is the time of the first pass, in which torch compiles, above that of a warm one; a length of a new kind may make
it compile again, which shows in the slowest of the first passes.
"""

import argparse
import copy
import time
from pathlib import Path

import torch
import torch._inductor.config as inductor
from torch import Tensor, nn

from w2v_compress.console import print_table
from w2v_compress.data.audio import SAMPLE_RATE
from w2v_compress.evaluation.machine import describe_machine, interleaved_latency
from w2v_compress.files import write_json
from w2v_compress.nn import AcousticModel, named_architecture
from w2v_compress.runtime.inference import prepare

SECONDS = (10.0, 2.0, 5.3, 7.7, 3.1, 14.2)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@torch.inference_mode()
def main() -> None:
    """Measure, show and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--architecture", default="base")
    parser.add_argument("--precision", choices=tuple(DTYPES), default="fp32")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    dtype = DTYPES[arguments.precision]
    plain = AcousticModel(named_architecture(arguments.architecture)).eval().requires_grad_(False).to(dtype)
    prepared, compiled = copy.deepcopy(plain), copy.deepcopy(plain)
    prepare(prepared)
    prepare(compiled)
    inductor.freezing = True
    compiled.w2v_model.encoder = torch.compile(plain.w2v_model.encoder, dynamic=True)  # type: ignore[assignment]
    audio = [torch.randn(1, round(seconds * SAMPLE_RATE)).to(dtype) for seconds in SECONDS]
    runs: dict[str, nn.Module] = {"prepared": prepared, "compiled": compiled}
    first = {name: [first_pass(run, samples) for samples in audio] for name, run in runs.items()}
    warm = {name: [0.0] * len(audio) for name in runs}
    for index, samples in enumerate(audio):
        turns = {name: lambda run=run, x=samples: run(x) for name, run in runs.items()}  # type: ignore[misc]
        for name, milliseconds in interleaved_latency(turns, arguments.repeats).items():
            warm[name][index] = milliseconds
    start = {name: sum(first[name]) - sum(warm[name]) / 1000 for name in runs}
    saved = (sum(warm["prepared"]) - sum(warm["compiled"])) / 1000 / sum(SECONDS)
    rows = [
        [name, f"{start[name]:.1f} s", f"{max(first[name][1:]):.2f} s", *(f"{value:.0f}" for value in warm[name])]
        for name in runs
    ]
    print_table(
        f"{arguments.architecture} in {arguments.precision}, {torch.get_num_threads()} threads",
        ["", "start", "slowest first pass after it", *(f"ms at {seconds:g} s" for seconds in SECONDS)],
        rows,
    )
    worth = start["compiled"] / saved / 3600 if saved > 0 else None
    print(f"its start is won back after {worth:.1f} hours of audio" if worth else "it is never won back")
    if arguments.json:
        settings = {name: getattr(arguments, name) for name in ("architecture", "precision", "repeats", "seed")}
        measured = {"audio_seconds": SECONDS, "first_seconds": first, "warm_milliseconds": warm, "start_seconds": start}
        results = {"machine": describe_machine(), **measured, "hours_of_audio_to_win_back": worth}
        write_json(arguments.json, {"command": "python benchmarks/compile.py", **settings, **results})


def first_pass(run: nn.Module, samples: Tensor) -> float:
    """Seconds of a pass over audio of a length that `run` has not seen."""
    start = time.perf_counter()
    run(samples)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
