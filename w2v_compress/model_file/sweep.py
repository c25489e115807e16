"""What `w2v-compress sweep` measured of a recognizer, as its file keeps it, and the point that a budget allows."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import InputError
from ..nn.compression import CompressionPoint, CompressionSpace

RATES = ("wer", "real_time_factor", "macs_per_second")
ROUNDING = 1e-9  # a limit that is met to the word is met


@dataclass(frozen=True, kw_only=True)
class SweptPoint:
    """Quality and cost at one point. Raises `InputError` when a value is no finite number of at least 0."""

    point: CompressionPoint
    wer: float
    """Errors over reference words, a fraction."""
    real_time_factor: float
    """Seconds of computing for each second of audio, batch 1."""
    macs_per_second: float
    """Multiply-accumulates for each second of audio."""

    def __post_init__(self) -> None:
        for name in RATES:
            if not _is_amount(getattr(self, name)):
                raise InputError(f"sweep: `{name}` is {getattr(self, name)!r}; it must be a number of at least 0")


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Points measured side by side on one test set. Raises `InputError` that names the field that is wrong."""

    subset: str
    """The name of the test set."""
    precision: str
    """What was computed in. Neither times nor error rates are those of another precision."""
    machine: dict[str, Any]
    """What the times were measured on, as `evaluation.machine.describe_machine` says it."""
    points: tuple[SweptPoint, ...]

    def __post_init__(self) -> None:
        for name in ("subset", "precision"):
            if not _is_line(getattr(self, name)):
                raise InputError(f"sweep: `{name}` is {getattr(self, name)!r}; it must be printable text")
        if not all(_is_line(value) or value is None or _is_amount(value) for value in self.machine.values()):
            raise InputError("sweep: `machine` must hold printable text and numbers only")
        if not self.points or len({swept.point for swept in self.points}) != len(self.points):
            raise InputError("sweep: `points` must list one point or more, each once")

    @property
    def reference(self) -> SweptPoint:
        """The least compressed of the points."""
        largest = CompressionSpace(points=tuple(swept.point for swept in self.points)).largest
        return next(swept for swept in self.points if swept.point == largest)

    def within_budget(self, real_time_factor: float) -> SweptPoint:
        """The most accurate point whose real-time factor is at most this; `InputError` names the fastest one."""
        fitting = [swept for swept in self.points if swept.real_time_factor <= real_time_factor]
        if not fitting:
            nearest = min(self.points, key=_slowness)
            raise InputError(
                f"no point of the stored sweep has a real-time factor of at most {real_time_factor:g}; "
                f"the fastest is {nearest.point} with {nearest.real_time_factor:.4g}"
            )
        return min(fitting, key=_badness)

    def within_increase(self, increase: float) -> SweptPoint:
        """The fastest point whose WER is at most that of the `reference` plus `increase`, a fraction.

        Raises `InputError` when there is none, which takes an `increase` below 0; it names the most accurate point.
        """
        limit = self.reference.wer + increase + ROUNDING
        fitting = [swept for swept in self.points if swept.wer <= limit]
        if not fitting:
            nearest = min(self.points, key=_badness)
            raise InputError(
                f"no point of the stored sweep changes the WER by at most {100 * increase:+g} points from the "
                f"{100 * self.reference.wer:.2f}% of {self.reference.point}; the most accurate is {nearest.point} "
                f"with {100 * nearest.wer:.2f}%"
            )
        return min(fitting, key=_slowness)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as the metadata of a model file holds them."""
        points = [asdict(swept) | {"point": str(swept.point)} for swept in self.points]
        return {"subset": self.subset, "precision": self.precision, "machine": self.machine, "points": points}

    @classmethod
    def from_dict(cls, values: Any) -> "Sweep":
        """The inverse of `to_dict`; `InputError` when the values are not those of a sweep."""
        _check_fields(values, ("subset", "precision", "machine", "points"), "`sweep`")
        if not isinstance(values["machine"], dict) or not isinstance(values["points"], list):
            raise InputError("sweep: `machine` must be a JSON object, and `points` a list")
        points = []
        for swept in values["points"]:
            _check_fields(swept, ("point", *RATES), "sweep: each of `points`")
            points.append(SweptPoint(**swept | {"point": CompressionPoint.parse(swept["point"])}))
        return cls(**values | {"points": tuple(points)})


def _slowness(swept: SweptPoint) -> tuple[float, float]:
    return swept.real_time_factor, swept.wer


def _badness(swept: SweptPoint) -> tuple[float, float]:
    return swept.wer, swept.real_time_factor


def _check_fields(values: Any, names: tuple[str, ...], where: str) -> None:
    if not isinstance(values, dict) or values.keys() != set(names):
        raise InputError(f"{where} must be a JSON object of the fields {', '.join(names)}")


def _is_line(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable()


def _is_amount(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 and math.isfinite(value)
    except OverflowError:  # a whole number that no float holds
        return False
