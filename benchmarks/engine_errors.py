"""Errors of every engine and precision on real speech, relative to the torch engine in fp64.

    python benchmarks/engine_errors.py MODEL.safetensors DATA --json benchmarks/results/engine_errors.json

DATA is a folder of manifests. The int8 models are made from MODEL: one without calibration, one calibrated on the
subset `train`. The utterances of the subset `test` are run as they are, and with a hum of 50 Hz, a constant offset, at
-60 dB, and clipped. Prints a table with the relative error of the logits, the frames with another best unit, and the
WER.
"""

import argparse
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from w2v_compress.cli.console import print_table, progress_bar
from w2v_compress.data.audio import SAMPLE_RATE, AudioArray, read_audio
from w2v_compress.data.manifest import Utterance, read_manifest
from w2v_compress.evaluation.calibrate import calibrate
from w2v_compress.evaluation.machine import describe_machine
from w2v_compress.evaluation.report import markdown_table
from w2v_compress.evaluation.sensitivity import EvaluationSet, Outputs, compute_outputs
from w2v_compress.files import write_json
from w2v_compress.model_file.storage import quantize_file
from w2v_compress.runtime.engines.names import EngineName
from w2v_compress.runtime.engines.torch_engine import TorchEngine
from w2v_compress.runtime.precision import Precision
from w2v_compress.runtime.recognizer import Recognizer


class Variant(NamedTuple):
    """An engine with a model file and a precision."""

    name: str
    model: Path
    engine: EngineName
    precision: Precision


def hum(samples: AudioArray) -> AudioArray:
    """Add a hum of 50 Hz as strong as the speech."""
    wave = np.sin(2 * np.pi * 50 * np.arange(len(samples)) / SAMPLE_RATE)
    return (samples + samples.std() * np.sqrt(2) * wave).astype(np.float32)


CONDITIONS: dict[str, Callable[[AudioArray], AudioArray]] = {
    "clean": lambda samples: samples,
    "hum": hum,
    "offset of 0.5": lambda samples: samples + np.float32(0.5),
    "at -60 dB": lambda samples: samples * np.float32(0.001),
    "clipped": lambda samples: np.clip(samples, -samples.std(), samples.std()),
}


def exact_recognizer(model: Path) -> Recognizer:
    """Return a recognizer that computes in fp64."""
    recognizer = Recognizer.load(model, engine="torch", precision="fp32")
    engine = recognizer.engine
    assert isinstance(engine, TorchEngine)
    return Recognizer(TorchEngine(engine.model.double(), "fp64"), recognizer.header)


@contextmanager
def variants(model: Path, train: list[Utterance]) -> Iterator[list[Variant]]:
    """Yield the variants, with int8 models in a temporary folder."""
    with tempfile.TemporaryDirectory() as name, progress_bar("Calibrating") as progress:
        dynamic, calibrated = (Path(name) / f"{kind}.safetensors" for kind in ("dynamic", "calibrated"))
        quantize_file(model, dynamic)
        quantize_file(model, calibrated, calibration=calibrate(model, [item.path for item in train], progress=progress))
        yield [
            Variant("torch fp32", model, "torch", "fp32"),
            Variant("torch bf16", model, "torch", "bf16"),
            Variant("torch int8", dynamic, "torch", "int8"),
            Variant("torch int8, calibrated", calibrated, "torch", "int8"),
            Variant("openvino fp32", model, "openvino", "fp32"),
            Variant("openvino bf16", model, "openvino", "bf16"),
            Variant("openvino int8, calibrated", calibrated, "openvino", "int8"),
        ]


def measure(variant: Variant, recognizer: Recognizer, dataset: EvaluationSet, exact: Outputs) -> dict[str, Any]:
    """Return the errors of a variant on one set of audio, for which fp64 gives `exact`."""
    outputs = compute_outputs(recognizer, dataset)
    best, other = (np.concatenate([logits.argmax(1) for logits in each.logits]) for each in (exact, outputs))
    return {
        "variant": variant.name,
        "relative_error": outputs.relative_error(exact),
        "changed_frames": float((best != other).mean()),
        "wer": outputs.wer,
        "exact_wer": exact.wer,
    }


def main() -> None:
    """Run the benchmark, print a table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="floating-point model file")
    parser.add_argument("data", type=Path, help="folder of manifests with the subsets train and test")
    parser.add_argument("--json", type=Path, help="write the results to this JSON file")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    test = read_manifest(arguments.data, "test")
    audio, texts = [read_audio(item.path) for item in test], [item.text for item in test]
    rows: list[dict[str, Any]] = []
    with (
        variants(arguments.model, read_manifest(arguments.data, "train")) as measured,
        progress_bar("Measuring") as progress,
    ):
        reference = exact_recognizer(arguments.model)
        recognizers = [Recognizer.load(each.model, engine=each.engine, precision=each.precision) for each in measured]
        for condition, change in CONDITIONS.items():
            dataset = EvaluationSet([change(samples) for samples in audio], texts, rate=SAMPLE_RATE)
            exact = compute_outputs(reference, dataset)
            for each, recognizer in zip(measured, recognizers, strict=True):
                row = measure(each, recognizer, dataset, exact)
                rows.append({"audio": condition} | row)
                progress(len(rows), len(CONDITIONS) * len(measured))
    columns = ["audio", "engine", "relative error", "changed frames", "WER", "WER in fp64"]
    lines = [
        [
            row["audio"],
            row["variant"],
            f"{row['relative_error']:.1e}",
            f"{100 * row['changed_frames']:.2f}%",
            f"{100 * row['wer']:.2f}%",
            f"{100 * row['exact_wer']:.2f}%",
        ]
        for row in rows
    ]
    print_table(f"{arguments.model} on {len(test)} utterances", columns, lines)
    print(markdown_table(columns, lines))
    if arguments.json:
        settings = {"command": "python benchmarks/engine_errors.py", "model": arguments.model.name}
        counts = {"utterances": len(test), "words": sum(len(text.split()) for text in texts)}
        write_json(arguments.json, settings | counts | {"machine": describe_machine(), "rows": rows})


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
