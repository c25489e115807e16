"""Reading and writing a recognizer as one safetensors file: the weights, and a header in the metadata.

docs/model_file.md describes the format. Reading a file never runs code from it. The sizes in a header are checked
against the tensors in the file before any memory is allocated: the network is first built on the meta device.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import InputError, prefixed, readable
from ..files import replacing
from ..nn.acoustic_model import AcousticModel
from ..nn.architecture import Architecture
from ..nn.feature_extractor import GroupNormStatistics
from ..nn.meta import on_meta_device
from ..quantization import scheme as quantization_scheme
from .header import METADATA_KEY, Header
from .sweep import Sweep


@dataclass(frozen=True)
class ModelFile:
    """A header and the tensors of its network.

    Raises `InputError` that names the field or the tensor if the two do not agree.
    """

    header: Header
    state: dict[str, Tensor]
    """Tensors by their names in `AcousticModel.state_dict`."""
    _skeletons: list[AcousticModel] = field(init=False, repr=False, compare=False, default_factory=list)
    """The network that the tensors were checked against, on the meta device, until `build` uses it."""

    def __post_init__(self) -> None:
        shapes = {name: list(tensor.shape) for name, tensor in self.state.items()}
        self._skeletons.append(_build_checked(self.header, shapes))
        for name, tensor in self.state.items():
            if self.header.quantization is None and not tensor.is_floating_point():
                raise InputError(f"the tensor `{name}` has type {tensor.dtype}; it must be floating point")

    def build(self, *, group_norm_statistics: GroupNormStatistics = "valid") -> AcousticModel:
        """Return a new network that shares these tensors, in evaluation mode and without gradients."""
        model = (
            self._skeletons.pop()
            if self._skeletons
            else build_skeleton(self.header.architecture, len(self.state), self.header.quantization)
        )
        model.w2v_model.feature_extractor.group_norm_statistics = group_norm_statistics
        state = self.state
        if self.header.quantization is None:
            state = {name: tensor.float() for name, tensor in state.items()}
        model.load_state_dict(state, assign=True)
        return model.eval().requires_grad_(False)


def read_model(path: Path) -> ModelFile:
    """Read the model file `path`. Raises `InputError` that names the file and the invalid field or tensor."""
    with _open(path) as file, prefixed(path):
        return ModelFile(_read_header(file), {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118


def read_header(path: Path) -> Header:
    """Read the header of the model file `path`, without its tensors."""
    with _open(path) as file, prefixed(path):
        return _read_header(file)


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


def quantize_file(path: Path, out: Path, scheme: str = "full", keep: Sequence[str] = ()) -> None:
    """Quantize the model file `path` to int8 and write the result at `out`.

    `scheme` and `keep`, the parts to leave in floating point, are those of `quantization.scheme`. Tensors are read and
    quantized one at a time. A stored sweep is dropped, because it measured the floating-point model. Raises
    `InputError` if the model is already quantized, or if the scheme or a part is unknown.
    """
    with _open(path) as file:
        with prefixed(path):
            header = _read_header(file)
            if header.quantization is not None:
                raise InputError(f"already quantized ({header.quantization['scheme']})")
            _build_checked(header, _read_shapes(file))
        quantization = {"scheme": scheme, "keep": list(keep)}
        state = quantization_scheme.quantize_state_dict(
            header.architecture, set(file.keys()), file.get_tensor, quantization
        )
    write_model(out, ModelFile(dataclasses.replace(header, quantization=quantization, sweep=None), state))


def describe_model(path: Path) -> dict[str, Any]:
    """Return the header, parameter count, size in bytes and precision of a model file as JSON values.

    Tensors are checked but not read.
    """
    with _open(path) as file, prefixed(path):
        header = _read_header(file)
        network = _build_checked(header, _read_shapes(file))
        types = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    if header.quantization is not None:  # the weights of int8 modules are buffers, not parameters
        with on_meta_device():
            network = AcousticModel(header.architecture)
    return {
        **json.loads(header.to_json()),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "bytes": Path(path).stat().st_size,
        "precision": "int8" if header.quantization else "/".join(sorted(types)).lower(),
    }


def build_skeleton(
    architecture: Architecture, num_tensors: int, quantization: dict[str, Any] | None = None
) -> AcousticModel:
    """Build the network of a file with `num_tensors` tensors on the meta device, with int8 modules if it is quantized.

    Raises `InputError` if the architecture has more layers than that, or sizes that no network can have.
    """
    # Every layer has tensors, so a valid file has at least as many tensors as layers. This bounds the build time.
    for name, layers in (
        ("encoder_layers", architecture.encoder_layers),
        ("conv_layers", len(architecture.conv_layers)),
    ):
        if layers > num_tensors:
            raise InputError(f"architecture: `{name}` is {layers} layers, too many for a file of {num_tensors} tensors")
    try:
        with on_meta_device():
            model = AcousticModel(architecture)
            if quantization is not None:
                quantization_scheme.apply(model, quantization)
    except (RuntimeError, TypeError, OverflowError, MemoryError):
        raise InputError("architecture: no network can be built with these sizes") from None
    return model


def _open(path: Path) -> Any:
    """Open the safetensors file `path`; raise `InputError` that says how to make a model file of another format."""
    path = Path(path)
    if path.is_dir():
        raise InputError(
            f"{path}: is a folder; it must be a model file. Convert a folder of transformers with "
            f"`w2v-compress import {path} OUT.safetensors`"
        )
    if not path.is_file():
        raise InputError(f"{path}: {'is not a plain file' if path.exists() else 'no such file'}")
    with readable(path):
        try:
            return safe_open(path, framework="pt", device="cpu")
        except SafetensorError as error:
            if _is_pytorch_checkpoint(path):
                raise InputError(
                    f"{path}: is a PyTorch checkpoint; it must be a model file. Convert it with "
                    f"`w2v-compress export {path} OUT.safetensors`"
                ) from None
            raise InputError(f"{path}: not a safetensors file, or truncated ({error})") from None


def _is_pytorch_checkpoint(path: Path) -> bool:
    """Return whether the file starts like a file of `torch.save`: a zip archive or, before 2020, a pickle."""
    with path.open("rb") as file:
        return file.read(2) in (b"PK", b"\x80\x02")


def _read_header(file: Any) -> Header:
    """Read the header of an open safetensors file."""
    text = (file.metadata() or {}).get(METADATA_KEY)
    if text is None:
        raise InputError(f"not a model of w2v-compress: its metadata has no key `{METADATA_KEY}`")
    return Header.from_json(text)


def _read_shapes(file: Any) -> dict[str, list[int]]:
    """Return the shapes of all tensors in an open safetensors file by name, without reading the tensors."""
    return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118


def _build_checked(header: Header, shapes: Mapping[str, list[int]]) -> AcousticModel:
    """Build the network of `header` on the meta device and check names and shapes of a file's tensors against it.

    Raises `InputError` that names the field or the tensor.
    """
    model = build_skeleton(header.architecture, len(shapes), header.quantization)
    header.check_points(model)
    expected = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    for problem, names in (("missing", expected.keys() - shapes.keys()), ("unknown", shapes.keys() - expected.keys())):
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise InputError(f"the tensor `{min(names)}` is {problem}{more}")
    for name, shape in shapes.items():
        if shape != expected[name]:
            raise InputError(f"the tensor `{name}` has shape {shape}; it must be {expected[name]}")
    return model
