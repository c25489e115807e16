"""Export to OpenVINO's intermediate representation, directly from torch. Imports OpenVINO on demand."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..extras import require
from ..files import replacing_together
from ..model_file.points import Point
from .graph import INPUTS, OUTPUTS, ExportGraph, graph_metadata
from .parity import ExportedNetwork, measure_difference
from .source import Exported, Source, check_suffix, without_warnings

SECTION = "w2v_compress"
"""Section of the file's runtime information that holds `graph.graph_metadata`."""


def export_openvino(model: Path, out: Path, *, point: Point | None = None, strict: bool = False) -> Exported:
    """Write the model file `model` as `out` (.xml) and its weights beside it (.bin), in fp32.

    The logits in OpenVINO are compared with ours first. `point` and `strict` are those of `resolve_point`. Raises
    `InputError` if the logits differ by more than `parity.TOLERANCE`. Files at `out` then stay as they are.
    """
    check_suffix(out, ".xml")
    require("--format openvino", "openvino", "openvino")
    source = Source.read(model, point, strict)
    with replacing_together(out) as target:
        _write(source, target)
        difference = measure_difference(source.model, source.point, _compiled(target))
        difference.check(out)
    return Exported(source, (out, out.with_suffix(".bin")), difference)


def _write(source: Source, path: Path) -> None:
    import openvino

    graph = ExportGraph(source.model, source.point)
    with without_warnings():
        converted = openvino.convert_model(graph.trace())
    for port, name in zip((*converted.inputs, *converted.outputs), (*INPUTS, *OUTPUTS), strict=True):
        port.get_tensor().set_names({name})
    for key, value in graph_metadata(source.model.header, source.point).items():
        converted.set_rt_info(value, [SECTION, key])
    try:
        openvino.save_model(converted, path, compress_to_fp16=False)
    except RuntimeError as error:
        raise InputError(f"{path.name}: cannot be written: {error}") from None


def _compiled(path: Path) -> ExportedNetwork:
    import openvino

    # By default OpenVINO computes in bf16 on processors that have units for it.
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(
        audio: npt.NDArray[np.float32], lengths: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        outputs = compiled(dict(zip(INPUTS, (audio, lengths), strict=True)))
        return outputs["logits"], outputs["frames"]

    return run
