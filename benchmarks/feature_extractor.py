"""Speed and error of our optimized feature extractor in each precision, compared with transformers in fp32.

    python benchmarks/feature_extractor.py --json benchmarks/results/feature_extractor.json

Same random weights for all, batch 1, interleaved runs in one process. Errors are relative to transformers in fp32: root
mean square of the difference, divided by that of the features. Prints a table, and writes times, speed-ups and errors
with --json.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from w2v_compress.cli.console import print_table
from w2v_compress.data.audio import SAMPLE_RATE
from w2v_compress.evaluation.machine import describe_machine, interleaved_latency
from w2v_compress.files import write_json
from w2v_compress.interop.fairseq_checkpoint import export_random
from w2v_compress.interop.transformers_export import load_package, write_folder
from w2v_compress.model_file.storage import quantize_file, read_model
from w2v_compress.runtime.recognizer import Recognizer

PEER = "transformers-fp32"


def measure(architecture: str, seconds: float, repeats: int, seed: int) -> dict[str, Any]:
    """Measure milliseconds and errors of the feature extractor of one architecture."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path, int8 = folder / "model.safetensors", folder / "int8.safetensors"
        export_random(architecture, path, seed)
        quantize_file(path, int8)
        (folder / "transformers").mkdir()
        write_folder(read_model(path), folder / "transformers")
        peer = load_package().Wav2Vec2ForCTC.from_pretrained(folder / "transformers").eval().wav2vec2.feature_extractor
        files = {"ours-fp32": path, "ours-bf16": path, "ours-int8": int8}
        recognizers = {name: Recognizer.load(file, precision=name[-4:]) for name, file in files.items()}
    audio = torch.randn(1, round(seconds * SAMPLE_RATE), generator=torch.Generator().manual_seed(seed))

    def run(name: str) -> Tensor:
        if name == PEER:
            return peer(audio).transpose(1, 2)
        extractor = recognizers[name].model.w2v_model.feature_extractor
        return extractor(audio.to(torch.bfloat16 if name == "ours-bf16" else torch.float32), None)

    names = (PEER, *files)
    exact = run(PEER)
    milliseconds = interleaved_latency({name: lambda name=name: run(name) for name in names}, repeats)  # type: ignore[misc]
    return {
        "architecture": architecture,
        "milliseconds": milliseconds,
        "times_faster": {name: milliseconds[PEER] / value for name, value in milliseconds.items()},
        "relative_error": {name: float((run(name).float() - exact).norm() / exact.norm()) for name in names},
    }


@torch.inference_mode()
def main() -> None:
    """Run the benchmark, print a table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the results to this JSON file")
    parser.add_argument("--architectures", nargs="+", default=["base", "large"])
    parser.add_argument("--seconds", type=float, default=10.0, help="seconds of audio")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    rows = [measure(name, arguments.seconds, arguments.repeats, arguments.seed) for name in arguments.architectures]
    print_table(
        f"Feature extractor, {arguments.seconds:g} s of audio, {torch.get_num_threads()} threads",
        ["network", "runtime", "ms", "speed-up", "relative error"],
        [
            [
                *(row["architecture"], name, f"{time:.1f}"),
                *(f"{row['times_faster'][name]:.2f}", f"{row['relative_error'][name]:.2g}"),
            ]
            for row in rows
            for name, time in row["milliseconds"].items()
        ],
    )
    if arguments.json:
        settings = {name: getattr(arguments, name) for name in ("seconds", "repeats", "seed")}
        command = {"command": "python benchmarks/feature_extractor.py"}
        write_json(arguments.json, command | settings | {"machine": describe_machine(), "extractors": rows})


if __name__ == "__main__":
    main()
