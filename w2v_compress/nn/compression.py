"""Compression points and the spaces that they are sampled from ("On-demand compute reduction with stochastic wav2vec
2.0", Vyas et al. 2022, as far as its abstract says; the rest is our design, docs/stochastic.md).

A point (S, Q, K) is a squeeze factor, a query pooling factor and a key-value pooling factor. (1, 1, 1) is wav2vec 2.0.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from ..errors import InputError

LARGEST_FACTOR = 16

Factors = int | tuple[int, ...]
"""One factor for all layers, or one for each."""
T = TypeVar("T")


@dataclass(frozen=True)
class CompressionPoint:
    """How much a network computes. Written `S,Q,K`; factors of single layers are joined with colons, `2,1:1:2:2,2`.

    Raises `InputError` when a factor is not a whole number from 1 to `LARGEST_FACTOR`.
    """

    squeeze: int = 1
    """Frames that the encoder takes as one (S)."""
    query_pool: Factors = 1
    """Frames that share a query in attention (Q)."""
    key_value_pool: Factors = 1
    """Frames that share a key and a value in attention (K)."""

    def __post_init__(self) -> None:
        _check_factor(self.squeeze, "squeeze", self)
        for name in ("query_pool", "key_value_pool"):
            factors = getattr(self, name)
            for factor in _each(factors):
                _check_factor(factor, name, self)
            if not isinstance(factors, int) and len(set(factors)) == 1:  # equal points are written alike
                object.__setattr__(self, name, factors[0])

    @classmethod
    def parse(cls, text: str) -> "CompressionPoint":
        """The inverse of `str`; `InputError` says what is allowed."""
        parts = str(text).split(",")
        try:
            squeeze, query_pool, key_value_pool = (tuple(int(factor) for factor in part.split(":")) for part in parts)
            (single,) = squeeze
        except ValueError:
            raise InputError(
                f"compression point {text!r} cannot be read; it must be S,Q,K such as 2,1,1, "
                "where Q and K may have one factor a layer, such as 2,1:1:2:2,2"
            ) from None
        return cls(single, *(factors[0] if len(factors) == 1 else factors for factors in (query_pool, key_value_pool)))

    def __str__(self) -> str:
        return self._joined(",", ":")

    @property
    def label(self) -> str:
        """The point in names of metrics and files, where commas may not stand: `s2_q1_k1`."""
        return "s" + self._joined("_", "-", ("", "q", "k"))

    def _joined(self, between: str, within: str, prefixes: tuple[str, str, str] = ("", "", "")) -> str:
        factors = (self.squeeze, self.query_pool, self.key_value_pool)
        return between.join(
            prefix + within.join(map(str, _each(each))) for prefix, each in zip(prefixes, factors, strict=True)
        )

    def of_layers(self, layers: int) -> list[tuple[int, int]]:
        """(query pooling, key-value pooling) of each of `layers` layers; `InputError` when there are others."""
        return list(zip(self._spread("query_pool", layers), self._spread("key_value_pool", layers), strict=True))

    def with_layers(self, kept: Sequence[int]) -> "CompressionPoint":
        """The point of a network that has only the layers `kept`, each of which keeps its own factors."""
        pools = (self.query_pool, self.key_value_pool)
        return CompressionPoint(
            self.squeeze,
            *(factors if isinstance(factors, int) else tuple(factors[layer] for layer in kept) for factors in pools),
        )

    def _spread(self, name: str, layers: int) -> tuple[int, ...]:
        factors = getattr(self, name)
        if isinstance(factors, int):
            return (factors,) * layers
        if len(factors) != layers:
            raise InputError(
                f"compression point {self}: `{name}` has {len(factors)} factors, and the network {layers} layers"
            )
        return factors


def _each(factors: Factors) -> tuple[int, ...]:
    return (factors,) if isinstance(factors, int) else factors


def _check_factor(value: Any, name: str, where: object) -> None:
    if type(value) is not int or not 1 <= value <= LARGEST_FACTOR:
        owner = "compression point" if isinstance(where, CompressionPoint) else "compression space"
        raise InputError(
            f"{owner}: `{name}` holds {value!r}; a factor must be a whole number from 1 to {LARGEST_FACTOR}"
        )


@dataclass(frozen=True, kw_only=True)
class CompressionSpace:
    """The points that a network is trained for: every combination of factors, or the `points` themselves.

    Raises `InputError` that names the field when a value is impossible.
    """

    squeeze: tuple[int, ...] = (1, 2, 3, 4)
    query_pool: tuple[int, ...] = (1, 2)
    key_value_pool: tuple[int, ...] = (1, 2)
    points: tuple[CompressionPoint, ...] = ()
    """Only these, in place of all combinations."""
    layer_wise: bool = False
    """Sample the pooling factors layer by layer."""

    def __post_init__(self) -> None:
        for name in ("squeeze", "query_pool", "key_value_pool"):
            factors = getattr(self, name)
            for factor in factors:
                _check_factor(factor, name, self)
            if not factors or len(set(factors)) != len(factors):
                raise InputError(
                    f"compression space: `{name}` is {list(factors)}; it must list one factor or more, each once"
                )
        if len(set(self.points)) != len(self.points):
            raise InputError("compression space: `points` must list each point once")
        if self.points and self.layer_wise:
            raise InputError("compression space: `layer_wise` samples factors; it must be false with `points`")

    def all_points(self) -> list[CompressionPoint]:
        """Every combination of factors, the same in all layers, least compressed first; or the listed points."""
        if self.points:
            return list(self.points)
        factors = (sorted(self.squeeze), sorted(self.query_pool), sorted(self.key_value_pool))
        return [CompressionPoint(*point) for point in itertools.product(*factors)]

    @property
    def largest(self) -> CompressionPoint:
        """The point of most compute."""
        return min(self.all_points(), key=_compression)

    @property
    def smallest(self) -> CompressionPoint:
        """The point of least compute."""
        return max(self.all_points(), key=_compression)

    def sample(self, seed: int, update: int, layers: int, draw: int = 0) -> CompressionPoint:
        """The point of an update (Vyas et al. 2022: uniformly), a function of its arguments alone.

        It is the same on every rank, in each of an update's batches and after resuming. `layers` is the depth of the
        network, for `layer_wise`; `draw` counts the points of one update.
        """
        generator = np.random.Generator(np.random.PCG64((seed % 2**32, update, draw)))

        def choose(choices: tuple[T, ...]) -> T:
            return choices[int(generator.integers(len(choices)))]

        if self.points:
            return choose(self.points)
        squeeze = choose(self.squeeze)
        if self.layer_wise:
            query, key_value = (
                tuple(choose(factors) for _ in range(layers)) for factors in (self.query_pool, self.key_value_pool)
            )
            return CompressionPoint(squeeze, query, key_value)
        return CompressionPoint(squeeze, choose(self.query_pool), choose(self.key_value_pool))

    def __contains__(self, point: CompressionPoint) -> bool:
        """Whether `sample` can give the point."""
        if self.points:
            return point in self.points
        pools = ((point.query_pool, self.query_pool), (point.key_value_pool, self.key_value_pool))
        return point.squeeze in self.squeeze and all(
            (isinstance(given, int) or self.layer_wise) and set(_each(given)) <= set(known) for given, known in pools
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as the metadata of a model file holds them."""
        factors: dict[str, Any] = {
            name: list(getattr(self, name)) for name in ("squeeze", "query_pool", "key_value_pool")
        }
        return factors | {"points": [str(point) for point in self.points], "layer_wise": self.layer_wise}

    @classmethod
    def from_dict(cls, values: Any) -> "CompressionSpace":
        """The inverse of `to_dict`; `InputError` when the values are not those of a space."""
        names = ("squeeze", "query_pool", "key_value_pool")
        if not isinstance(values, dict) or set(values) - {*names, "points", "layer_wise"}:
            raise InputError(
                f"compression space: {values!r} must have no fields but {', '.join(names)}, points, layer_wise"
            )
        lists = {name: values[name] for name in (*names, "points") if name in values}
        for name, value in lists.items():
            if not isinstance(value, list | tuple):
                raise InputError(f"compression space: `{name}` is {value!r}; it must be a list")
        layer_wise = values.get("layer_wise", False)
        if not isinstance(layer_wise, bool):
            raise InputError(f"compression space: `layer_wise` is {layer_wise!r}; it must be true or false")
        points = parse_points(lists.pop("points", ()))
        return cls(**{name: tuple(value) for name, value in lists.items()}, points=points, layer_wise=layer_wise)


def parse_points(texts: Iterable[str]) -> tuple[CompressionPoint, ...]:
    """Points from what `CompressionPoint.parse` reads."""
    return tuple(CompressionPoint.parse(text) for text in texts)


def _compression(point: CompressionPoint) -> tuple[float, float, float]:
    """Orders points by what they save: the squeeze saves in all of the encoder, pooling in attention only."""
    means = (sum(_each(factors)) / len(_each(factors)) for factors in (point.query_pool, point.key_value_pool))
    return (float(point.squeeze), *means)  # type: ignore[return-value]


UNCOMPRESSED = CompressionPoint()
