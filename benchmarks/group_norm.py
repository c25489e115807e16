"""Errors in fp32 of base models, whose group norm is folded into the first convolution, relative to fp64.

    python benchmarks/group_norm.py --json benchmarks/results/group_norm.json

Errors of the log-probabilities, relative to transformers in fp64. Compares stock fairseq in fp32 with our network in
training, with our runtime, with our ONNX export, and with OpenVINO's conversion of transformers. Random weights, with
three kinds of filters in the first convolution: random; band-pass, as in trained models; and high-pass, which cancels
hum and offsets. Audio: speech of the quickstart's corpus, one utterance at a time. Prints tables, and writes the errors
with --json.
"""

import argparse
import itertools
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from w2v_compress.benchmark.peers import BASELINE, PEERS, Setting, fairseq, onnxruntime, openvino, ours, transformers
from w2v_compress.cli.console import print_table, progress_bar
from w2v_compress.data.audio import SAMPLE_RATE, AudioArray, read_audio
from w2v_compress.evaluation.machine import describe_machine
from w2v_compress.evaluation.report import markdown_table
from w2v_compress.files import write_json
from w2v_compress.interop.fairseq_checkpoint import export_random
from w2v_compress.model_file.storage import ModelFile, read_model, write_model

CORPUS = Path(__file__).resolve().parent.parent / "examples" / "quickstart" / "corpus" / "audio"
FILTERS = "w2v_model.feature_extractor.conv_layers.0.0.weight"
STOCK = "fairseq"
Run = Callable[[AudioArray], Tensor]
"""Computes the logits or log-probabilities (frames, units) of samples (samples,)."""


def filters(kind: str, shape: torch.Size, seed: int) -> Tensor:
    """Return weights (channels, 1, kernel) of `kind` for the first convolution."""
    generator = torch.Generator().manual_seed(seed)
    channels, _, kernel = shape
    taps = torch.arange(float(kernel))
    if kind == "band-pass":
        frequencies, phases = torch.linspace(0.02, 0.48, channels), torch.rand(channels, generator=generator)
        waves = torch.cos(2 * torch.pi * (frequencies[:, None] * taps + phases[:, None]))
        weight = waves * torch.hann_window(kernel + 2, periodic=False)[1:-1]
        weight -= weight.mean(1, keepdim=True)
    else:  # high-pass: differences of first to sixth order
        rows = []
        for channel in range(channels):
            row = torch.ones(1)
            for _ in range(1 + channel % 6):
                row = torch.cat([row, torch.zeros(1)]) - torch.cat([torch.zeros(1), row])
            rows.append(torch.nn.functional.pad(row / row.abs().sum(), (0, kernel - len(row))))
        weight = torch.stack(rows) * (0.5 + torch.rand(channels, 1, generator=generator))
    return weight.unsqueeze(1)


def kinds_of_audio(seconds: float) -> dict[str, AudioArray]:
    """Return speech of this length, plain and with several distortions."""
    length = round(seconds * SAMPLE_RATE)
    pieces: list[AudioArray] = []
    for path in itertools.cycle(sorted(CORPUS.glob("*.opus"))):
        pieces.append(read_audio(path))
        if sum(map(len, pieces)) >= length:
            break
    speech = np.concatenate(pieces)[:length].astype(np.float64)
    hum = 0.3 * np.sin(2 * np.pi * 50 * np.arange(length) / SAMPLE_RATE)
    audio = {
        "speech": speech,
        "speech, hum of 50 Hz": speech + hum,
        "hum": hum,
        "speech, offset of 0.5": speech + 0.5,
        "speech, -60 dB": 1e-3 * speech,
        "speech, clipped": np.clip(20 * speech, -1, 1),
        "speech at -40 dB, hum": 1e-2 * speech + hum,
    }
    return {name: samples.astype(np.float32) for name, samples in audio.items()}


def runtimes(setting: Setting) -> dict[str, Run]:
    """Load the fp64 network, stock fairseq, and our networks and exports."""
    for module in (transformers, fairseq, onnxruntime, openvino):
        module.convert(setting)
    peers = {"fairseq": fairseq, "our ONNX": onnxruntime, "OpenVINO": openvino, "our runtime": ours}
    loaded = {name: module.load(setting) for name, module in peers.items()}
    network = read_model(setting.model).build()
    exact = transformers.load_model(setting, torch.float64)
    found: dict[str, Run] = {"fp64": lambda audio: exact(torch.from_numpy(audio)[None].double()).logits[0]}
    for name, run in loaded.items():
        found[name] = lambda audio, run=run: torch.from_numpy(run([audio])[0])  # type: ignore[misc]
    return found | {"ours": lambda audio: network(torch.from_numpy(audio)[None])[0][0]}


def measure(setting: Setting, seconds: list[float]) -> Iterator[dict[str, Any]]:
    """Yield the largest and the rms error of each runtime for each audio."""
    found = runtimes(setting)
    for length in seconds:
        for kind, audio in kinds_of_audio(length).items():
            with torch.inference_mode():
                outputs = {name: run(audio).double().log_softmax(-1) for name, run in found.items()}
            exact = outputs.pop("fp64")
            errors = {name: (logits - exact).abs() for name, logits in outputs.items()}
            yield {
                "seconds": length,
                "audio": kind,
                "largest": {name: float(error.max()) for name, error in errors.items()},
                "rms": {name: float(error.square().mean().sqrt()) for name, error in errors.items()},
            }


def summary(rows: list[dict[str, Any]]) -> str:
    """Summarize each audio over all filters and lengths in Markdown.

    Lists the errors of stock fairseq, and for each of ours the largest ratio to the error of fairseq on the same audio.
    """
    ours = [name for name in rows[0]["rms"] if name != STOCK]
    lines = []
    for audio in dict.fromkeys(row["audio"] for row in rows):
        errors = [row["rms"] for row in rows if row["audio"] == audio]
        stock = [error[STOCK] for error in errors]
        ratios = [f"{max(error[name] / error[STOCK] for error in errors):.2f}" for name in ours]
        lines.append([audio, f"{min(stock):.1e} to {max(stock):.1e}", *ratios])
    return markdown_table(["audio", STOCK, *ours], lines)


def main() -> None:
    """Run the benchmark, print a table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the results to this JSON file")
    parser.add_argument("--seconds", type=float, nargs="+", default=[1.0, 10.0, 60.0], help="seconds of audio")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the weights")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    rows: list[dict[str, Any]] = []
    kinds = ("random", "band-pass", "high-pass")
    steps = 7 * len(kinds) * len(arguments.seconds)
    with tempfile.TemporaryDirectory() as name, progress_bar("Measuring") as progress:
        for kind in kinds:
            folder = Path(name) / kind
            folder.mkdir()
            model = export_random("base", folder / "model.safetensors", arguments.seed)
            if kind != "random":
                changed = {FILTERS: filters(kind, model.state[FILTERS].shape, arguments.seed)}
                write_model(folder / "model.safetensors", ModelFile(model.header, model.state | changed))
            setting = Setting(model=folder / "model.safetensors", folder=folder, precision="fp32", threads=2)
            for row in measure(setting, arguments.seconds):
                rows.append({"filters": kind, **row})
                progress(len(rows), steps)
    names = list(rows[0]["rms"])
    lines = [
        [
            *(row["filters"], row["audio"], f"{row['seconds']:g} s", f"{row['rms'][STOCK]:.1e}"),
            *(f"{row['rms'][name] / row['rms'][STOCK]:.2f}" for name in names if name != STOCK),
        ]
        for row in rows
    ]
    print_table(
        "Rms error of the log-probabilities of fairseq, and ratio of our errors to it",
        ["first filters", "audio", "length", *names],
        lines,
    )
    print(summary(rows))
    if arguments.json:
        settings = {"command": "python benchmarks/group_norm.py", "seed": arguments.seed, "reference": BASELINE}
        packages = {name: PEERS[name].packages for name in ("onnxruntime-fp32", "openvino-fp32")}
        write_json(arguments.json, settings | {"machine": describe_machine(), "runtimes": packages, "rows": rows})


if __name__ == "__main__":
    main()
