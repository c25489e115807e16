"""A recognizer in one safetensors file: weights, and in the metadata all that is needed to use them.

docs/model_file.md describes the format. Reading never runs code from the file, and no number in a file is believed
before it agrees with the tensors that are there: the network is first built without memory, on the meta device.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import InputError
from ..files import replacing
from ..nn.acoustic_model import AcousticModel
from ..nn.feature_extractor import GroupNormStatistics
from ..nn.meta import without_memory
from ..quantization import scheme as quantization_scheme
from .header import METADATA_KEY, Header
from .sweep import Sweep


@dataclass(frozen=True)
class ModelFile:
    """A header and the tensors by name, as `AcousticModel.state_dict` has them."""

    header: Header
    state: dict[str, Tensor]

    def __post_init__(self) -> None:
        shapes = {name: list(tensor.shape) for name, tensor in self.state.items()}
        _check_shapes(_skeleton(self.header, len(shapes)), shapes)
        for name, tensor in self.state.items():
            if self.header.quantization is None and not tensor.is_floating_point():
                raise InputError(f"the tensor `{name}` has type {tensor.dtype}; it must be floating point")

    def build(self, *, group_norm_statistics: GroupNormStatistics = "valid") -> AcousticModel:
        """The network with these tensors (shared, not copied), in eval mode and without gradients."""
        model = _skeleton(self.header, len(self.state), group_norm_statistics)
        state = self.state
        if self.header.quantization is None:
            state = {name: tensor.float() for name, tensor in state.items()}
        model.load_state_dict(state, assign=True)
        return model.eval().requires_grad_(False)


def read_model(path: Path) -> ModelFile:
    """The model in `path`. Raises `InputError` that names the file and the field or tensor that is wrong."""
    with _opened(path) as file:
        header = _header(path, file)
        try:
            return ModelFile(header, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        except InputError as error:
            raise InputError(f"{path}: {error}") from None


def read_header(path: Path) -> Header:
    """The header of the model in `path`, without reading its tensors."""
    with _opened(path) as file:
        return _header(path, file)


def write_model(path: Path, model: ModelFile) -> None:
    """Write `model` at `path`, whole or not at all."""
    # Tensors of a checkpoint may be views into one storage, which safetensors refuses.
    state = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in model.state.items()
    }
    with replacing(path) as temporary:
        try:
            save_file(state, temporary, metadata={METADATA_KEY: model.header.to_json()})
        except SafetensorError as error:  # how safetensors reports a full disk
            raise InputError(f"{path}: cannot be written: {error}") from None


def store_sweep(path: Path, sweep: Sweep) -> None:
    """Put `sweep` into the model file `path`, in place of the one that may be there."""
    model = read_model(path)
    write_model(path, dataclasses.replace(model, header=dataclasses.replace(model.header, sweep=sweep)))


def quantize_file(path: Path, out: Path, scheme: str = "full", keep: Sequence[str] = ()) -> None:
    """Write the model in `path` in int8 at `out`: `quantization.scheme` has the schemes and the parts to keep.

    Tensors are read and quantized one at a time. A stored sweep is left out: it measured the other precision. Raises
    `InputError` when the model is int8 already, the scheme or a part is unknown.
    """
    with _opened(path) as file:
        header = _header(path, file)
        if header.quantization is not None:
            raise InputError(f"{path}: already quantized ({header.quantization['scheme']})")
        _check_file(path, file, header)
        quantization = {"scheme": scheme, "keep": list(keep)}
        state = quantization_scheme.quantize_state(header.architecture, set(file.keys()), file.get_tensor, quantization)
    write_model(out, ModelFile(dataclasses.replace(header, quantization=quantization, sweep=None), state))


def describe_model(path: Path) -> dict[str, Any]:
    """What is in the model file, JSON-able, without reading its tensors: the header, parameters, bytes, precision."""
    with _opened(path) as file:
        header = _header(path, file)
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        _check_file(path, file, header)
        types = {part.get_dtype() for part in slices.values()}
    network = _skeleton(dataclasses.replace(header, quantization=None), len(slices))
    return {
        **json.loads(header.to_json()),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "bytes": Path(path).stat().st_size,
        "precision": "int8" if header.quantization else "/".join(sorted(types)).lower(),
    }


def _opened(path: Path) -> Any:
    path = Path(path)
    if path.is_dir():
        raise InputError(
            f"{path}: is a folder; a model file is needed. Of a folder of transformers make one with "
            f"`w2v-compress import {path} OUT.safetensors`"
        )
    if not path.is_file():
        raise InputError(f"{path}: {'is not a plain file' if path.exists() else 'no such file'}")
    try:
        return safe_open(path, framework="pt", device="cpu")
    except SafetensorError as error:
        if _is_pickled(path):
            raise InputError(
                f"{path}: is a checkpoint of PyTorch; make a model file of it with "
                f"`w2v-compress export {path} OUT.safetensors`"
            ) from None
        raise InputError(f"{path}: not a safetensors file, or truncated ({error})") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None


def _is_pickled(path: Path) -> bool:
    """Whether the file begins as what `torch.save` writes does: as a zip file, or, until 2020, as a pickle."""
    with path.open("rb") as file:
        return file.read(2) in (b"PK", b"\x80\x02")


def _header(path: Path, file: Any) -> Header:
    text = (file.metadata() or {}).get(METADATA_KEY)
    if text is None:
        raise InputError(f"{path}: not a model of w2v-compress: its metadata has no key `{METADATA_KEY}`")
    try:
        return Header.from_json(text)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _check_file(path: Path, file: Any, header: Header) -> None:
    """The tensors' names and shapes against the header, without reading them."""
    shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    try:
        _check_shapes(_skeleton(header, len(shapes)), shapes)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _skeleton(header: Header, tensors: int, group_norm_statistics: GroupNormStatistics = "valid") -> AcousticModel:
    """The network of a file of so many tensors without memory, with the modules of its quantization in place."""
    architecture = header.architecture
    # Every layer has tensors, so a file cannot make us build more layers than it has tensors.
    for name, layers in (
        ("encoder_layers", architecture.encoder_layers),
        ("conv_layers", len(architecture.conv_layers)),
    ):
        if layers > tensors:
            raise InputError(f"architecture: `{name}` is {layers} layers, too many for the {tensors} tensors there")
    try:
        with without_memory():
            model = AcousticModel(architecture, group_norm_statistics=group_norm_statistics)
            if header.quantization is not None:
                quantization_scheme.apply(model, header.quantization)
    except (RuntimeError, TypeError, OverflowError, MemoryError):
        raise InputError("architecture: such sizes are impossible") from None
    header.check_points(model)
    return model


def _check_shapes(model: AcousticModel, shapes: Mapping[str, list[int]]) -> None:
    expected = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    for problem, names in (("missing", expected.keys() - shapes.keys()), ("unknown", shapes.keys() - expected.keys())):
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise InputError(f"the tensor `{min(names)}` is {problem}{more}")
    for name, shape in shapes.items():
        if shape != expected[name]:
            raise InputError(f"the tensor `{name}` has shape {shape}; it must be {expected[name]}")
