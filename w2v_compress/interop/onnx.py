"""Export to ONNX, for ONNX Runtime and other runtimes that read it. Needs the extra `[onnx]`."""

import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..extras import require
from ..files import replacing_together
from ..model_file.points import Point
from ..model_file.storage import ModelFile
from ..nn.compression import CompressionPoint
from ..quantization.scheme import short_weights
from .graph import INPUTS, OUTPUTS, ExportGraph, graph_metadata
from .parity import ExportedNetwork, measure_difference
from .source import Exported, Source, check_suffix, without_warnings

OPSETS = (18, 19, 20, 21, 22)
"""Supported versions. From 23 on attention is one operator, which ONNX Runtime does not run with our masks."""
DEFAULT_OPSET = 20
"""The first version with an operator for GELU."""
LARGEST_IN_ONE_FILE = 1_900_000_000
"""Bytes of weights in one ONNX file, which is a protobuf message and so holds at most 2 GiB."""


def export_onnx(
    model: Path,
    out: Path,
    *,
    point: Point | None = None,
    strict: bool = False,
    int8: bool = False,
    reduce_range: bool = False,
    opset: int = DEFAULT_OPSET,
) -> Exported:
    """Write the model file `model` as the ONNX file `out`, after comparing its logits in ONNX Runtime with ours.

    Args:
        model: the model file.
        out: the ONNX file. Weights of more than `LARGEST_IN_ONE_FILE` bytes go to a file beside it, with `.data`
            appended to its name.
        point: the compression point; by default that of the model file.
        strict: reject a point that the model was not trained for.
        int8: quantize the matrix products with weights: with the fixed scales of a calibrated model file, else
            dynamically, with ONNX Runtime.
        reduce_range: with `int8`, weights of 7 bits, for processors that `Processor.overflows_int8`.
        opset: the ONNX opset version.

    Raises `InputError` if the logits in fp32 differ by more than `parity.TOLERANCE`. Files at `out` then stay as they
    are.
    """
    check_suffix(out, ".onnx")
    if opset not in OPSETS:
        raise InputError(f"ONNX opset {opset} is not supported; it must be from {OPSETS[0]} to {OPSETS[-1]}")
    require("--format onnx", "onnx", "onnx", "onnxscript", "onnxruntime")
    source = Source.read(model, point, strict)
    quantized = None
    with replacing_together(out) as target, tempfile.TemporaryDirectory(dir=target.parent) as folder:
        exact = Path(folder) / target.name if int8 else target
        _write(source.model, source.point, exact, opset)
        difference = measure_difference(source.model, source.point, _session(exact))
        difference.check(out)
        if int8:
            if source.calibrated is not None:
                fixed = source.calibrated
                if reduce_range:
                    fixed = ModelFile(fixed.header, short_weights(fixed.state))
                _write(fixed, source.point, target, opset)
            else:
                _quantize(exact, target, reduce_range)
            quantized = measure_difference(source.model, source.point, _session(target))
        names = [file.name for file in target.parent.iterdir() if file.is_file()]
    return Exported(source, tuple(out.with_name(name) for name in sorted(names)), difference, quantized)


def _write(model: ModelFile, point: CompressionPoint, path: Path, opset: int) -> None:
    import torch

    graph = ExportGraph(model, point)
    with without_warnings():
        program = torch.onnx.export(
            graph.trace(),
            dynamo=True,
            input_names=INPUTS,
            output_names=OUTPUTS,
            opset_version=opset,
            verbose=False,
        )
    assert program is not None  # it is None only without `dynamo`
    program.model.metadata_props.update(graph_metadata(model.header, point))
    weights = sum(parameter.nbytes for parameter in graph.parameters())
    program.save(path, external_data=weights > LARGEST_IN_ONE_FILE)


def _quantize(path: Path, out: Path, reduce_range: bool) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with without_warnings():
        quantize_dynamic(
            path,
            out,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            reduce_range=reduce_range,
            weight_type=QuantType.QInt8,
            use_external_data_format=path.with_name(f"{path.name}.data").exists(),
            extra_options={"MatMulConstBOnly": True},
        )


def _session(path: Path) -> ExportedNetwork:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(
        audio: npt.NDArray[np.float32], lengths: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        logits, frames = session.run(OUTPUTS, dict(zip(INPUTS, (audio, lengths), strict=True)))
        return logits, frames

    return run
