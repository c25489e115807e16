"""ONNX Runtime with calibrated int8: the model of transformers, quantized in QDQ format by `quantize_static`."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import Logits, Run, Setting, Waveform, onnxruntime, transformers, trim

FILE = "qdq.onnx"
OPERATORS = ["MatMul", "Conv"]
"""The operators to quantize."""
OPSET = 18
SIZES = {0: "batch", 1: "samples"}
"""Names of the variable sizes of the inputs."""


def convert(setting: Setting) -> None:
    """Export the model of transformers to ONNX, and quantize its matrix products and convolutions.

    Weights get a scale for each channel, activations one for each tensor.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    transformers.convert(setting)
    inputs = transformers.Inputs.read(setting.folder / transformers.FOLDER)
    with tempfile.TemporaryDirectory(dir=setting.folder) as name:
        exact, prepared = Path(name, "fp32.onnx"), Path(name, "prepared.onnx")
        _export(setting, inputs, exact)
        # Symbolic shape inference fails for lengths that are not known; the documentation says to skip it then.
        quant_pre_process(exact, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            setting.folder / FILE,
            Recordings(inputs, setting.calibration),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=OPERATORS,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )


def load(setting: Setting) -> Run:
    """Run the quantized file."""
    session = onnxruntime.make_session(setting.folder / FILE, setting)
    inputs = transformers.Inputs.read(setting.folder / transformers.FOLDER)

    def run(waveforms: Sequence[Waveform]) -> list[Logits]:
        batch = inputs.batch(waveforms)
        (logits,) = session.run(None, batch.named())
        return trim(logits, batch.frames)

    return run


class Recordings:
    """The calibration audio in the form of a `CalibrationDataReader`."""

    def __init__(self, inputs: transformers.Inputs, paths: Sequence[Path]) -> None:
        self._batches = self._read(inputs, paths)

    def get_next(self) -> dict[str, Any] | None:
        """Return the inputs of the network for the next waveform, or None at the end."""
        return next(self._batches, None)

    @staticmethod
    def _read(inputs: transformers.Inputs, paths: Sequence[Path]) -> Iterator[dict[str, Any]]:
        for path in paths:
            yield inputs.batch([np.load(path, allow_pickle=False)]).named()


def _export(setting: Setting, inputs: transformers.Inputs, path: Path) -> None:
    """Write the model of transformers as ONNX, with an attention mask if it takes one.

    By tracing: torch's newer exporter needs ten times as long for a graph that is 8% slower.
    """
    import torch

    example = transformers.example(inputs)
    torch.onnx.export(
        transformers.load_model(setting, torch.float32),
        tuple(example.values()),
        path,
        input_names=list(example),
        output_names=["logits"],
        dynamic_axes=dict.fromkeys([*example, "logits"], SIZES),
        opset_version=OPSET,
        dynamo=False,
    )
