"""Compression points and the spaces from which training samples them.

A compression point (S, Q, K) is a squeeze factor, a query pooling factor and a key-value pooling factor. (1, 1, 1) is
wav2vec 2.0 without compression. The method follows the abstract of "On-demand compute reduction with stochastic
wav2vec 2.0" (Vyas et al. 2022); docs/stochastic.md documents the design beyond it.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from ..errors import InputError

MAX_FACTOR = 16
"""Largest squeeze or pooling factor."""

Factors = int | tuple[int, ...]
"""One factor for all layers, or one factor per layer."""
T = TypeVar("T")


@dataclass(frozen=True)
class CompressionPoint:
    """How strongly the encoder compresses its frames. Written as `S,Q,K`, with colons between factors per layer.

    In `2,1:1:2:2,2`, for example, the query pooling factors of four layers are 1, 1, 2 and 2. Equal factors in all
    layers become a single factor. Raises `InputError` if a factor is not a whole number from 1 to `MAX_FACTOR`.
    """

    squeeze: int = 1
    """Frames averaged to one before the transformer layers (S)."""
    query_pool: Factors = 1
    """Frames averaged to one query in attention (Q)."""
    key_value_pool: Factors = 1
    """Frames averaged to one key and value in attention (K)."""

    def __post_init__(self) -> None:
        _check_factor(self.squeeze, "compression point", "squeeze")
        for name in ("query_pool", "key_value_pool"):
            factors = getattr(self, name)
            for factor in _as_tuple(factors):
                _check_factor(factor, "compression point", name)
            if not isinstance(factors, int) and len(set(factors)) == 1:  # so that equivalent points compare equal
                object.__setattr__(self, name, factors[0])

    @classmethod
    def parse(cls, text: str) -> "CompressionPoint":
        """Parse a point as `str` writes it, such as `2,1,1` or `2,1:1:2:2,2`; raise `InputError` if it is invalid."""
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
        return self._join(",", ":")

    @property
    def label(self) -> str:
        """The point without commas and colons, for names of metrics and files: `s2_q1_k1`."""
        return self._join("_", "-", ("s", "q", "k"))

    def _join(self, between: str, within: str, prefixes: tuple[str, str, str] = ("", "", "")) -> str:
        """Join S, Q and K, each after its prefix, with `between`, and the factors of single layers with `within`."""
        factors = (self.squeeze, self.query_pool, self.key_value_pool)
        return between.join(
            prefix + within.join(map(str, _as_tuple(each))) for prefix, each in zip(prefixes, factors, strict=True)
        )

    def pools_per_layer(self, layers: int) -> list[tuple[int, int]]:
        """Return (query pooling, key-value pooling) of each of `layers` layers.

        Raises `InputError` if the point has factors per layer and their number differs from `layers`.
        """
        return list(zip(self._per_layer("query_pool", layers), self._per_layer("key_value_pool", layers), strict=True))

    def for_layers(self, layers: Sequence[int]) -> "CompressionPoint":
        """Return the point for a network of only these layers (indices from 0), with their factors."""
        pools = (self.query_pool, self.key_value_pool)
        return CompressionPoint(
            self.squeeze,
            *(factors if isinstance(factors, int) else tuple(factors[layer] for layer in layers) for factors in pools),
        )

    def _per_layer(self, name: str, layers: int) -> tuple[int, ...]:
        factors: Factors = getattr(self, name)
        if isinstance(factors, int):
            return (factors,) * layers
        if len(factors) != layers:
            raise InputError(
                f"compression point {self}: `{name}` has {len(factors)} factors, but the network has {layers} layers"
            )
        return factors


def _as_tuple(factors: Factors) -> tuple[int, ...]:
    return (factors,) if isinstance(factors, int) else factors


def _check_factor(value: object, owner: str, name: str) -> None:
    """Raise `InputError` that names `owner` and its field `name` unless `value` is an int from 1 to `MAX_FACTOR`."""
    if type(value) is not int or not 1 <= value <= MAX_FACTOR:
        raise InputError(f"{owner}: `{name}` holds {value!r}; a factor must be a whole number from 1 to {MAX_FACTOR}")


@dataclass(frozen=True, kw_only=True)
class CompressionSpace:
    """The compression points that a network is trained for: all combinations of factors, or a list of points.

    Raises `InputError` that names the field if a value is invalid.
    """

    squeeze: tuple[int, ...] = (1, 2, 3, 4)
    """Squeeze factors."""
    query_pool: tuple[int, ...] = (1, 2)
    """Query pooling factors."""
    key_value_pool: tuple[int, ...] = (1, 2)
    """Key-value pooling factors."""
    points: tuple[CompressionPoint, ...] = ()
    """Points to use instead of the combinations of factors; empty for all combinations."""
    layer_wise: bool = False
    """Sample the pooling factors of each layer independently."""

    def __post_init__(self) -> None:
        for name in ("squeeze", "query_pool", "key_value_pool"):
            factors = getattr(self, name)
            for factor in factors:
                _check_factor(factor, "compression space", name)
            if not factors or len(set(factors)) != len(factors):
                raise InputError(
                    f"compression space: `{name}` is {list(factors)}; it must list one factor or more, each once"
                )
        if len(set(self.points)) != len(self.points):
            raise InputError("compression space: `points` must list each point once")
        if self.points and self.layer_wise:
            raise InputError("compression space: `layer_wise` samples factors; it must be false with `points`")

    def all_points(self) -> list[CompressionPoint]:
        """Return all combinations of factors, equal in all layers, least compressed first; or the listed points."""
        if self.points:
            return list(self.points)
        factors = (sorted(self.squeeze), sorted(self.query_pool), sorted(self.key_value_pool))
        return [CompressionPoint(*point) for point in itertools.product(*factors)]

    @property
    def largest(self) -> CompressionPoint:
        """The least compressed point, which computes most."""
        return min(self.all_points(), key=savings)

    @property
    def smallest(self) -> CompressionPoint:
        """The most compressed point, which computes least."""
        return max(self.all_points(), key=savings)

    def sample(
        self, seed: int, update: int, layers: int, draw: int = 0, weights: Sequence[float] = ()
    ) -> CompressionPoint:
        """Sample the point of an update (uniformly, Vyas et al. 2022), as a function of the arguments alone.

        The point is the same on every rank, for each batch of an update and after resuming.

        Args:
            seed: Seed of the training run.
            update: Number of the update, from 0.
            layers: Number of layers of the network, for `layer_wise`.
            draw: Index of the point, for updates with more than one.
            weights: Relative probability of each of `points` [ours]; empty for equal ones.
        """
        generator = np.random.Generator(np.random.PCG64((seed % 2**32, update, draw)))

        def choose(choices: tuple[T, ...]) -> T:
            return choices[int(generator.integers(len(choices)))]

        if weights:
            return self.points[int(generator.choice(len(self.points), p=np.divide(weights, sum(weights))))]
        if self.points:
            return choose(self.points)
        squeeze = choose(self.squeeze)
        if self.layer_wise:
            pools = (self.query_pool, self.key_value_pool)
            return CompressionPoint(squeeze, *(tuple(choose(factors) for _ in range(layers)) for factors in pools))
        return CompressionPoint(squeeze, choose(self.query_pool), choose(self.key_value_pool))

    def __contains__(self, point: CompressionPoint) -> bool:
        """Return whether `sample` can return the point."""
        if self.points:
            return point in self.points
        pools = ((point.query_pool, self.query_pool), (point.key_value_pool, self.key_value_pool))
        return point.squeeze in self.squeeze and all(
            (isinstance(factors, int) or self.layer_wise) and set(_as_tuple(factors)) <= set(allowed)
            for factors, allowed in pools
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values, as stored in the header of a model file."""
        factors: dict[str, Any] = {
            name: list(getattr(self, name)) for name in ("squeeze", "query_pool", "key_value_pool")
        }
        return factors | {"points": [str(point) for point in self.points], "layer_wise": self.layer_wise}

    @classmethod
    def from_dict(cls, values: object) -> "CompressionSpace":
        """Create a space from the result of `to_dict`; raise `InputError` for unknown or invalid fields."""
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
    """Parse each text with `CompressionPoint.parse`; raise its `InputError` for the first invalid one."""
    return tuple(CompressionPoint.parse(text) for text in texts)


def savings(point: CompressionPoint) -> tuple[float, float, float]:
    """Return a sort key by savings: squeezing saves compute in all of the encoder, pooling in attention only."""
    query, key_value = (_as_tuple(factors) for factors in (point.query_pool, point.key_value_pool))
    return float(point.squeeze), sum(query) / len(query), sum(key_value) / len(key_value)


UNCOMPRESSED = CompressionPoint()
"""The point (1, 1, 1): wav2vec 2.0 without compression."""
