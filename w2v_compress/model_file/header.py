"""The metadata of a model file."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from ..data.audio import SAMPLE_RATE
from ..data.units import Units
from ..errors import InputError
from ..json_objects import parse_json
from ..nn.architecture import Architecture
from ..nn.compression import UNCOMPRESSED, CompressionPoint, CompressionSpace
from .sweep import Sweep

METADATA_KEY = "w2v_compress"
FORMAT_VERSION = 2
VERSION_1_POINTS = [[1, 1, 1]]
"""The value of `compression_points` in every file of format version 1."""
UNCOMPRESSED_ONLY = CompressionSpace(points=(UNCOMPRESSED,))


@dataclass(frozen=True, kw_only=True)
class Header:
    """The metadata of a model file. Raises `InputError` that names the field if a value is invalid."""

    architecture: Architecture
    units: Units
    normalize: bool
    """Whether the model expects each utterance at zero mean and unit variance."""
    sample_rate: int = SAMPLE_RATE
    space: CompressionSpace = UNCOMPRESSED_ONLY
    """The compression points that the model was trained for."""
    point: CompressionPoint = UNCOMPRESSED
    """The default compression point."""
    sweep: Sweep | None = None
    """Measured accuracy and speed at each point, or None."""
    quantization: dict[str, Any] | None = None
    """The quantization scheme and its options, which `quantization.scheme` reads; None for a floating-point model."""

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
        """Seconds between two frames of the network's output, 0.02 in the published models."""
        return self.architecture.samples_per_frame / self.sample_rate

    def describe_space(self) -> str:
        """Return the compression points of `space` as text, or the factors that they combine."""
        if self.space.points:
            return " ".join(map(str, self.space.points))
        factors = (self.space.squeeze, self.space.query_pool, self.space.key_value_pool)
        choices = (f"{name} of {' '.join(map(str, sorted(each)))}" for name, each in zip("SQK", factors, strict=True))
        return ", ".join(choices) + (", Q and K layer by layer" if self.space.layer_wise else "")

    def to_json(self) -> str:
        """Return the JSON text to store under the metadata key `w2v_compress`."""
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
        """Read the text that `to_json` returns; raise `InputError` that names a missing, unknown or invalid field."""
        values = _parse_fields(text)
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

    def check_points(self) -> None:
        """Raise `InputError` if the header names a compression point that its network cannot run."""
        swept = [] if self.sweep is None else [measured.point for measured in self.sweep.points]
        for point in (self.point, *self.space.all_points(), *swept):
            self.architecture.pools_per_layer(point)


def _parse_fields(text: str) -> dict[str, Any]:
    """Return the fields of the JSON object in `text`, in the current format version and without `format_version`."""
    values = parse_json(text, f"the metadata under `{METADATA_KEY}`")
    version = values.pop("format_version", None)
    if version == 1:
        return _upgrade_version_1(values)
    if version != FORMAT_VERSION:
        raise InputError(f"`format_version` is {version!r}; this program reads 1 and {FORMAT_VERSION}")
    return values


def _upgrade_version_1(values: dict[str, Any]) -> dict[str, Any]:
    """Convert the fields of format version 1, whose networks were all trained for (1, 1, 1), to the current ones."""
    points = values.pop("compression_points", None)
    if points != VERSION_1_POINTS:
        raise InputError(f"`compression_points` is {points!r}; in format version 1 it must be {VERSION_1_POINTS}")
    point = str(UNCOMPRESSED)
    return values | {"compression": {"space": {"points": [point]}, "point": point}, "sweep": None}
