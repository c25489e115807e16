"""What the metadata of a model file says."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from ..data.audio import SAMPLE_RATE
from ..data.units import Units
from ..errors import InputError
from ..nn.acoustic_model import AcousticModel
from ..nn.architecture import Architecture
from ..nn.compression import UNCOMPRESSED, CompressionPoint, CompressionSpace
from .sweep import Sweep

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
