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

from ..data.audio import SAMPLE_RATE
from ..data.units import Units
from ..errors import InputError
from ..files import replacing
from ..nn.acoustic_model import AcousticModel
from ..nn.architecture import Architecture
from ..nn.feature_extractor import GroupNormStatistics
from ..quantization import scheme as quantization_scheme

METADATA_KEY = "w2v_compress"
FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Header:
    """What the metadata says. Raises `InputError` that names the field when the parts do not fit together."""

    architecture: Architecture
    units: Units
    normalize: bool
    """The model wants audio of zero mean and unit variance, utterance by utterance."""
    sample_rate: int = SAMPLE_RATE
    compression_points: tuple[tuple[int, int, int], ...] = ((1, 1, 1),)
    """(squeeze, query pooling, key-value pooling) at which the model was trained."""
    quantization: dict[str, Any] | None = None
    """None for floating point; else the scheme and what it did to which tensor, for `quantization` to interpret."""

    def __post_init__(self) -> None:
        if not isinstance(self.normalize, bool):
            raise InputError(f"`normalize` is {self.normalize!r}; it must be true or false")
        if self.sample_rate != SAMPLE_RATE:
            raise InputError(f"`sample_rate` is {self.sample_rate!r}; it must be {SAMPLE_RATE}")
        if len(self.units.symbols) != self.architecture.num_units:
            raise InputError(
                f"`units` has {len(self.units.symbols)} symbols; the architecture's `num_units` is "
                f"{self.architecture.num_units}"
            )
        points = self.compression_points
        if not points or any(len(point) != 3 or any(not _is_factor(n) for n in point) for point in points):
            raise InputError(f"`compression_points` is {points!r}; it must be a list of three whole numbers each")
        if self.quantization is not None and not isinstance(self.quantization.get("scheme"), str):
            raise InputError("`quantization` must be null or have a `scheme`")

    def to_json(self) -> str:
        """The text that goes under the key `w2v_compress`."""
        values = {
            "format_version": FORMAT_VERSION,
            "architecture": self.architecture.to_dict(),
            "units": self.units.to_dict(),
            "sample_rate": self.sample_rate,
            "normalize": self.normalize,
            "compression_points": self.compression_points,
            "quantization": self.quantization,
        }
        return json.dumps(values, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Header":
        """The inverse of `to_json`; `InputError` names the field that is missing, unknown or wrong."""
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):
            raise InputError(f"the metadata under `{METADATA_KEY}` is not JSON") from None
        if not isinstance(values, dict):
            raise InputError(f"the metadata under `{METADATA_KEY}` must be a JSON object")
        version = values.pop("format_version", None)
        if version != FORMAT_VERSION:
            raise InputError(f"`format_version` is {version!r}; this program reads {FORMAT_VERSION}")
        names = {field.name for field in dataclasses.fields(cls)}
        for problem, fields in (("missing", names - set(values)), ("unknown", set(values) - names)):
            if fields:
                raise InputError(f"the field `{min(fields)}` is {problem}")
        for name, kind in (("architecture", dict), ("units", dict), ("compression_points", list)):
            if not isinstance(values[name], kind):
                raise InputError(f"`{name}` must be a JSON {'object' if kind is dict else 'list'}")
        if not isinstance(values["quantization"], dict | None):
            raise InputError("`quantization` must be null or a JSON object")
        points = values.pop("compression_points")
        if not all(isinstance(point, list) for point in points):
            raise InputError("`compression_points` must be a list of lists")
        values["architecture"] = Architecture.from_dict(values["architecture"])
        values["units"] = Units.from_dict(values["units"])
        return cls(compression_points=tuple(map(tuple, points)), **values)


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


def quantize_file(path: Path, out: Path, scheme: str = "full", keep: Sequence[str] = ()) -> None:
    """Write the model in `path` in int8 at `out`: `quantization.scheme` has the schemes and the parts to keep.

    Tensors are read and quantized one at a time. Raises `InputError` when the model is int8 already, the scheme or a
    part is unknown.
    """
    with _opened(path) as file:
        header = _header(path, file)
        if header.quantization is not None:
            raise InputError(f"{path}: already quantized ({header.quantization['scheme']})")
        _check_file(path, file, header)
        quantization = {"scheme": scheme, "keep": list(keep)}
        state = quantization_scheme.quantize_state(header.architecture, set(file.keys()), file.get_tensor, quantization)
    write_model(out, ModelFile(dataclasses.replace(header, quantization=quantization), state))


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
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file")
    try:
        return safe_open(path, framework="pt", device="cpu")
    except SafetensorError as error:
        raise InputError(f"{path}: not a safetensors file, or truncated ({error})") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None


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
        with torch.device("meta"):
            model = AcousticModel(architecture, group_norm_statistics=group_norm_statistics)
            if header.quantization is not None:
                quantization_scheme.apply(model, header.quantization)
    except (RuntimeError, TypeError, OverflowError, MemoryError):
        raise InputError("architecture: such sizes are impossible") from None
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


def _is_factor(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
