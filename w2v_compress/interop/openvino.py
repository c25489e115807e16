"""OpenVINO's intermediate representation, straight from torch: the extra `[openvino]`."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..extras import require
from ..files import replacing_together
from ..model_file.points import Point
from .graph import INPUTS, OUTPUTS, Graph, description
from .parity import Run, measure
from .source import Exported, Source, check_suffix, quietly

SECTION = "w2v_compress"
"""Of the runtime information in the file, which holds `graph.description`."""


def export_openvino(model: Path, out: Path, *, point: Point | None = None, strict: bool = False) -> Exported:
    """Write the model file `model` as `out` (.xml) and the weights beside it (.bin), in fp32, once OpenVINO gives in
    fp32 what our network gives.

    `point` and `strict` are those of `Recognizer.checked_point`. Raises `InputError`, and leaves what was there, when
    logits differ by more than `parity.TOLERANCE`.
    """
    check_suffix(out, ".xml")
    require("--format openvino", "openvino", "openvino")
    source = Source.read(model, point, strict)
    with replacing_together(out) as target:
        _write(source, target)
        difference = measure(source.model, source.point, _compiled(target))
        difference.check(out)
    return Exported(source, (out, out.with_suffix(".bin")), difference)


def _write(source: Source, path: Path) -> None:
    import openvino

    graph = Graph(source.model, source.point)
    with quietly():
        converted = openvino.convert_model(graph.trace())
    for port, name in zip((*converted.inputs, *converted.outputs), (*INPUTS, *OUTPUTS), strict=True):
        port.get_tensor().set_names({name})
    for key, value in description(source.model.header, source.point).items():
        converted.set_rt_info(value, [SECTION, key])
    try:
        openvino.save_model(converted, path, compress_to_fp16=False)
    except RuntimeError as error:
        raise InputError(f"{path.name}: cannot be written: {error}") from None


def _compiled(path: Path) -> Run:
    import openvino

    # Where the processor has units for bf16, that is what it computes in unless told otherwise.
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(
        audio: npt.NDArray[np.float32], lengths: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        outputs = compiled(dict(zip(INPUTS, (audio, lengths), strict=True)))
        return outputs["logits"], outputs["frames"]

    return run
