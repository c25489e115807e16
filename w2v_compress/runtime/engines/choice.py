"""Choose and load the engine and precision for a model file. Imports torch only for the torch engine."""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from ...errors import InputError
from ...extras import require
from ...model_file.header import Header
from ...model_file.tensor_file import read_header
from ...processor import processor
from ...quantization.parts import is_calibrated
from ..precision import Precision
from .engine import Engine
from .names import EngineName

if TYPE_CHECKING:
    from ...nn.feature_extractor import GroupNormStatistics


def load_engine(
    path: Path,
    *,
    engine: EngineName,
    precision: Precision,
    device: str,
    threads: int | None,
    streams: int,
    cache: bool,
    group_norm_statistics: "GroupNormStatistics",
) -> tuple[Engine, Header]:
    """Load the model file `path` into an engine; the arguments are those of `Recognizer.load`, which has the defaults.

    Raises `InputError` if the file is not a model file, or an option does not suit it or the machine.
    """
    header = read_header(path)
    for name, value, allowed in (("engine", engine, EngineName), ("precision", precision, Precision)):
        if value not in get_args(allowed):
            raise InputError(f"{name} {value!r} is unknown; it must be one of {', '.join(get_args(allowed))}")
    chosen = engine
    if engine == "auto":
        on_openvino = device == "cpu" and group_norm_statistics == "valid" and suits_openvino(header)
        chosen = "openvino" if on_openvino else "torch"
    if chosen == "openvino":
        if device != "cpu":
            raise InputError(f"the openvino engine runs on the device cpu, not {device!r}; use the torch engine there")
        if group_norm_statistics != "valid":
            raise InputError('the openvino engine has no `group_norm_statistics` other than "valid"')
        require("the openvino engine", "openvino", "openvino")
        from .openvino.engine import OpenVinoEngine

        resolved = _resolve_precision(precision, header, path, processor().has_fast_bfloat16)
        return OpenVinoEngine(path, resolved, threads=threads, streams=streams, cache=cache), header
    from .torch_engine import TorchEngine, has_fast_bfloat16

    resolved = _resolve_precision(precision, header, path, has_fast_bfloat16(device))
    return TorchEngine.load(path, resolved, device, threads, group_norm_statistics), header


def suits_openvino(header: Header) -> bool:
    """Return whether OpenVINO is installed and the faster engine on CPUs for such a model file.

    For int8 without calibration torch is faster: it quantizes activations when it runs, and OpenVINO leaves them in
    floating point.
    """
    dynamic_int8 = header.quantization is not None and not is_calibrated(header.quantization)
    return importlib.util.find_spec("openvino") is not None and not dynamic_int8


def _resolve_precision(precision: Precision, header: Header, path: Path, fast_bfloat16: bool) -> str:
    quantized = header.quantization is not None
    if precision == "auto":
        return "int8" if quantized else "bf16" if fast_bfloat16 else "fp32"
    if precision == "int8" and not quantized:
        raise InputError(f"{path}: not an int8 model: create one with `w2v-compress quantize`")
    if precision != "int8" and quantized:
        raise InputError(f"{path}: an int8 model; its precision must be int8 or auto, not {precision}")
    return precision
