"""Measured accuracy and speed at each compression point; `w2v-compress sweep --save` stores them in the model file."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import InputError
from ..nn.compression import CompressionPoint, CompressionSpace

RATES = ("wer", "real_time_factor", "macs_per_second")
ROUNDING = 1e-9  # a WER that equals the limit must not exceed it by rounding


@dataclass(frozen=True, kw_only=True)
class SweptPoint:
    """Accuracy and cost at one compression point.

    Raises `InputError` unless all values are finite numbers of at least 0.
    """

    point: CompressionPoint
    wer: float
    """Word errors divided by reference words, a fraction."""
    real_time_factor: float
    """Seconds of computing for each second of audio, at batch size 1."""
    macs_per_second: float
    """Multiply-accumulates for each second of audio."""

    def __post_init__(self) -> None:
        for name in RATES:
            if not _is_finite_amount(getattr(self, name)):
                raise InputError(f"sweep: `{name}` is {getattr(self, name)!r}; it must be a number of at least 0")


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Points measured on one test set and one machine.

    Raises `InputError` that names the field if a value is invalid.
    """

    subset: str
    """Name of the test set."""
    precision: str
    """Precision of the network. Times and error rates hold for this precision only."""
    machine: dict[str, Any]
    """The machine that the times were measured on, as `evaluation.machine.describe_machine` returns it."""
    points: tuple[SweptPoint, ...]

    def __post_init__(self) -> None:
        for name in ("subset", "precision"):
            if not _is_printable(getattr(self, name)):
                raise InputError(f"sweep: `{name}` is {getattr(self, name)!r}; it must be printable text")
        if not all(
            _is_printable(value) or value is None or _is_finite_amount(value) for value in self.machine.values()
        ):
            raise InputError("sweep: `machine` must hold printable text and numbers only")
        if not self.points or len({swept.point for swept in self.points}) != len(self.points):
            raise InputError("sweep: `points` must list one point or more, each once")

    @property
    def least_compressed(self) -> SweptPoint:
        """The least compressed point, the baseline of `within_increase`."""
        point = CompressionSpace(points=tuple(swept.point for swept in self.points)).largest
        return next(swept for swept in self.points if swept.point == point)

    def within_budget(self, real_time_factor: float) -> SweptPoint:
        """Return the most accurate point whose real-time factor is at most `real_time_factor`.

        Raises `InputError` that names the fastest point if there is none.
        """
        fitting = [swept for swept in self.points if swept.real_time_factor <= real_time_factor]
        if not fitting:
            fastest = min(self.points, key=_by_time)
            raise InputError(
                f"no point of the stored sweep has a real-time factor of at most {real_time_factor:g}; "
                f"the fastest is {fastest.point} with {fastest.real_time_factor:.4g}"
            )
        return min(fitting, key=_by_error)

    def within_increase(self, increase: float) -> SweptPoint:
        """Return the fastest point whose WER is at most that of `least_compressed` plus `increase`, a fraction.

        Raises `InputError` that names the most accurate point if there is none, which needs an `increase` below 0.
        """
        baseline = self.least_compressed
        limit = baseline.wer + increase + ROUNDING
        fitting = [swept for swept in self.points if swept.wer <= limit]
        if not fitting:
            best = min(self.points, key=_by_error)
            raise InputError(
                f"no point of the stored sweep changes the WER by at most {100 * increase:+g} percentage points "
                f"from the {100 * baseline.wer:.2f}% of {baseline.point}; the most accurate is {best.point} with "
                f"{100 * best.wer:.2f}%"
            )
        return min(fitting, key=_by_time)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON values to store in the metadata of a model file."""
        points = [asdict(swept) | {"point": str(swept.point)} for swept in self.points]
        return {"subset": self.subset, "precision": self.precision, "machine": self.machine, "points": points}

    @classmethod
    def from_dict(cls, values: Any) -> "Sweep":
        """Read the values that `to_dict` returns; raise `InputError` if a field is missing, unknown or invalid."""
        _check_fields(values, ("subset", "precision", "machine", "points"), "`sweep`")
        if not isinstance(values["machine"], dict) or not isinstance(values["points"], list):
            raise InputError("sweep: `machine` must be a JSON object, and `points` a list")
        points = []
        for swept in values["points"]:
            _check_fields(swept, ("point", *RATES), "sweep: each of `points`")
            points.append(SweptPoint(**swept | {"point": CompressionPoint.parse(swept["point"])}))
        return cls(**values | {"points": tuple(points)})


def _by_time(swept: SweptPoint) -> tuple[float, float]:
    """Sort by real-time factor, equal ones by WER."""
    return swept.real_time_factor, swept.wer


def _by_error(swept: SweptPoint) -> tuple[float, float]:
    """Sort by WER, equal ones by real-time factor."""
    return swept.wer, swept.real_time_factor


def _check_fields(values: Any, names: tuple[str, ...], where: str) -> None:
    if not isinstance(values, dict) or values.keys() != set(names):
        raise InputError(f"{where} must be a JSON object of the fields {', '.join(names)}")


def _is_printable(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable()


def _is_finite_amount(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 and math.isfinite(value)
    except OverflowError:  # an integer beyond the range of floats
        return False
