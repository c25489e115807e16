"""Networks in model files: build one from a file, write one, and quantize one.

`tensor_file` reads model files without torch; docs/model_file.md describes the format.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ..errors import InputError, prefixed
from ..files import replacing
from ..nn.acoustic_model import AcousticModel
from ..nn.feature_extractor import GroupNormStatistics
from ..nn.meta import on_meta_device
from ..quantization.calibration import Calibration
from ..quantization.scheme import apply, quantize_state_dict
from .header import METADATA_KEY, Header
from .sweep import Sweep
from .tensor_file import check_tensors, check_types, header_of, open_safetensors, shapes_of

TYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int8: "I8",
}
"""Types of tensors in model files, as safetensors names them."""


@dataclass(frozen=True)
class ModelFile:
    """A header and the tensors of its network.

    Raises `InputError` that names the field or the tensor if the two do not agree.
    """

    header: Header
    state: dict[str, Tensor]
    """Tensors by their names in `AcousticModel.state_dict`."""

    def __post_init__(self) -> None:
        check_tensors(self.header, {name: tuple(tensor.shape) for name, tensor in self.state.items()})
        check_types(
            self.header, {name: TYPE_NAMES.get(each.dtype, str(each.dtype)) for name, each in self.state.items()}
        )

    def build(self, *, group_norm_statistics: GroupNormStatistics = "valid") -> AcousticModel:
        """Return a new network that shares these tensors, in evaluation mode and without gradients."""
        with on_meta_device():
            model = AcousticModel(self.header.architecture, group_norm_statistics=group_norm_statistics)
            if self.header.quantization is not None:
                apply(model, self.header.quantization)
        state = {name: each.float() if each.is_floating_point() else each for name, each in self.state.items()}
        model.load_state_dict(state, assign=True)
        return model.eval().requires_grad_(False)


def read_model(path: Path) -> ModelFile:
    """Read the model file `path`. Raises `InputError` that names the file and the invalid field or tensor."""
    with open_safetensors(path, "pt") as file, prefixed(path):
        return ModelFile(header_of(file), read_tensors(file))


def read_tensors(file: Any) -> dict[str, Tensor]:
    """Read all tensors of an open safetensors file.

    Raises `InputError` that names a tensor with an impossible shape, or with values that are not finite numbers.
    """
    return {name: read_tensor(file, name) for name in shapes_of(file)}


def read_tensor(file: Any, name: str) -> Tensor:
    """Read a tensor of an open safetensors file; errors are those of `check_finite`."""
    tensor: Tensor = file.get_tensor(name)
    check_finite(name, tensor)
    return tensor


def write_model(path: Path, model: ModelFile) -> None:
    """Write `model` at `path`, whole or not at all."""
    # Tensors of a checkpoint may be views into one storage, which safetensors refuses.
    state = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in model.state.items()
    }
    with replacing(path) as temporary:
        try:
            save_file(state, temporary, metadata={METADATA_KEY: model.header.to_json()})
        except SafetensorError as error:  # safetensors reports a full disk this way
            raise InputError(f"{path}: cannot be written: {error}") from None


def store_sweep(path: Path, sweep: Sweep) -> None:
    """Store `sweep` in the model file `path`, replacing any sweep stored before."""
    model = read_model(path)
    write_model(path, dataclasses.replace(model, header=dataclasses.replace(model.header, sweep=sweep)))


def quantize_file(
    path: Path,
    out: Path,
    scheme: str = "full",
    keep: Sequence[str] = (),
    calibration: Calibration | None = None,
) -> None:
    """Quantize the model file `path` to int8 and write the result at `out`.

    Tensors are read and quantized one at a time. A stored sweep is dropped, because it measured the floating-point
    model.

    Args:
        path: A floating-point model file.
        out: The file to write.
        scheme: The parts to quantize, see `quantization.parts`.
        keep: Parts of the scheme to leave in floating point.
        calibration: Ranges of activations for fixed scales; without it, scales are computed when the model runs.

    Raises:
        InputError: The model is already quantized, or the scheme or a part is unknown.
    """
    with open_safetensors(path, "pt") as file:
        with prefixed(path):
            header = header_of(file)
            check_not_quantized(header)
            check_tensors(header, shapes_of(file))
        quantization: dict[str, Any] = {"scheme": scheme, "keep": list(keep)}
        if calibration is not None:
            quantization["calibration"] = calibration.describe()
        names = set(file.keys())
        with prefixed(path):
            state = quantize_state_dict(
                header.architecture, names, partial(read_tensor, file), quantization, calibration
            )
    write_model(out, ModelFile(dataclasses.replace(header, quantization=quantization, sweep=None), state))


def check_not_quantized(header: Header) -> None:
    """Raise `InputError` if the model is int8 already."""
    if header.quantization is not None:
        raise InputError(f"already quantized ({header.quantization['scheme']})")


def check_finite(name: str, tensor: Tensor) -> None:
    """Raise `InputError` if a tensor of a file has a value that is not finite, or is of a float8 or float4 type."""
    if tensor.is_floating_point() and tensor.dtype not in TYPE_NAMES:
        raise InputError(f"the tensor `{name}` has type {tensor.dtype}; only {', '.join(TYPE_NAMES.values())} are read")
    if not tensor.isfinite().all():
        raise InputError(f"the tensor `{name}` has values that are not finite numbers")
