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
from ..nn.compression import UNCOMPRESSED, CompressionPoint, CompressionSpace
from ..nn.feature_extractor import GroupNormStatistics
from ..nn.skeleton import without_memory
from ..quantization import scheme as quantization_scheme
from .stored_sweep import Sweep

METADATA_KEY = "w2v_compress"
FORMAT_VERSION = 2
FIRST_VERSION_POINTS = [[1, 1, 1]]
"""The `compression_points` that every file of format version 1 has."""
UNCOMPRESSED_ONLY = CompressionSpace(points=(UNCOMPRESSED,))


@dataclass(frozen=True, kw_only=True)
class Header:
    """What the metadata says. Raises `InputError` that names the field when the parts do not fit together."""

    architecture: Architecture
    units: Units
    normalize: bool
    """The model wants audio of zero mean and unit variance, utterance by utterance."""
    sample_rate: int = SAMPLE_RATE
    space: CompressionSpace = UNCOMPRESSED_ONLY
    """The points that the model was trained for."""
    point: CompressionPoint = UNCOMPRESSED
    """The point to run at unless told otherwise."""
    sweep: Sweep | None = None
    """Quality and cost by point, where they were measured."""
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
        if self.quantization is not None and not isinstance(self.quantization.get("scheme"), str):
            raise InputError("`quantization` must be null or have a `scheme`")

    @property
    def seconds_per_frame(self) -> float:
        """From one row of the network's output to the next: 0.02 in the published models."""
        return self.architecture.samples_per_frame / self.sample_rate

    @property
    def trained_points(self) -> str:
        """The space in words: points, or the factors whose combinations they are."""
        if self.space.points:
            return " ".join(map(str, self.space.points))
        factors = (self.space.squeeze, self.space.query_pool, self.space.key_value_pool)
        choices = (f"{name} of {' '.join(map(str, sorted(each)))}" for name, each in zip("SQK", factors, strict=True))
        return ", ".join(choices) + (", Q and K layer by layer" if self.space.layer_wise else "")

    def to_json(self) -> str:
        """The text that goes under the key `w2v_compress`."""
        values = {
            "format_version": FORMAT_VERSION,
            "architecture": self.architecture.to_dict(),
            "units": self.units.to_dict(),
            "sample_rate": self.sample_rate,
            "normalize": self.normalize,
            "compression": {"space": self.space.to_dict(), "point": str(self.point)},
            "sweep": None if self.sweep is None else self.sweep.to_dict(),
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
        if version == 1:
            values = _of_first_version(values)
        elif version != FORMAT_VERSION:
            raise InputError(f"`format_version` is {version!r}; this program reads 1 and {FORMAT_VERSION}")
        names = {field.name for field in dataclasses.fields(cls)} - {"space", "point"} | {"compression"}
        for problem, fields in (("missing", names - set(values)), ("unknown", set(values) - names)):
            if fields:
                raise InputError(f"the field `{min(fields)}` is {problem}")
        for name in ("architecture", "units", "compression"):
            if not isinstance(values[name], dict):
                raise InputError(f"`{name}` must be a JSON object")
        if not isinstance(values["quantization"], dict | None):
            raise InputError("`quantization` must be null or a JSON object")
        compression = values.pop("compression")
        if compression.keys() != {"space", "point"}:
            raise InputError("`compression` must have the fields space, point")
        values["space"] = CompressionSpace.from_dict(compression["space"])
        values["point"] = CompressionPoint.parse(compression["point"])
        values["architecture"] = Architecture.from_dict(values["architecture"])
        values["units"] = Units.from_dict(values["units"])
        values["sweep"] = None if values["sweep"] is None else Sweep.from_dict(values["sweep"])
        return cls(**values)

    def check_points(self, model: AcousticModel) -> None:
        """Raises `InputError` when `model`, the network of this header, lacks a point that the header names."""
        swept = [] if self.sweep is None else [measured.point for measured in self.sweep.points]
        for point in (self.point, *self.space.all_points(), *swept):
            model.w2v_model.encoder.pools_at(point)


def _of_first_version(values: dict[str, Any]) -> dict[str, Any]:
    """The fields of today from those of format version 1, whose networks all were trained for (1, 1, 1)."""
    points = values.pop("compression_points", None)
    if points != FIRST_VERSION_POINTS:
        raise InputError(f"`compression_points` is {points!r}; in format version 1 it must be {FIRST_VERSION_POINTS}")
    only = str(UNCOMPRESSED)
    return values | {"compression": {"space": {"points": [only]}, "point": only}, "sweep": None}


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
