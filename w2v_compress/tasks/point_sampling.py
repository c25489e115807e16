"""Sample the compression points of an update.

Each update runs at one point, sampled uniformly from a space ("On-demand compute reduction with stochastic wav2vec
2.0", Vyas et al. 2022, abstract) or by weights, or at several points that include the largest and the smallest (the
sandwich rule of "Universally Slimmable Networks", Yu and Huang 2019, section 3.2).
"""

import math
import re
from dataclasses import dataclass, field
from typing import Any

from fairseq.dataclass import ChoiceEnum, FairseqDataclass

from ..errors import InputError, prefixed
from ..nn.compression import CompressionPoint, CompressionSpace, parse_points, savings

CURRICULUM_CHOICES = ChoiceEnum(["none", "full_first", "squeezed_first"])


@dataclass
class PointSamplingConfig(FairseqDataclass):
    """Settings of the points to train at."""

    squeeze: list[int] = field(
        default_factory=lambda: [1, 2, 3, 4], metadata={"help": "squeeze factors to sample from, 1 to 16, each once"}
    )
    query_pool: list[int] = field(
        default_factory=lambda: [1, 2], metadata={"help": "query pooling factors to sample from, 1 to 16, each once"}
    )
    key_value_pool: list[int] = field(
        default_factory=lambda: [1, 2],
        metadata={"help": "key-value pooling factors to sample from, 1 to 16, each once"},
    )
    points: list[str] = field(
        default_factory=list,
        metadata={
            "help": "compression points S,Q,K to sample from, such as 2,1,1; replaces all combinations of the factors"
        },
    )
    point_weights: list[float] = field(
        default_factory=list,
        metadata={"help": "relative probability of each of `points`, above 0; empty: all equal"},
    )
    curriculum: CURRICULUM_CHOICES = field(  # type: ignore[valid-type]
        default="none",
        metadata={
            "help": "order in which points join the sampling during curriculum_updates: full_first (less to more "
            "compressed), squeezed_first (more to less), or none (all from the start)"
        },
    )
    curriculum_updates: int = field(
        default=0, metadata={"help": "number of updates until all points are sampled; only with curriculum"}
    )
    points_per_batch: int = field(
        default=1,
        metadata={"help": "number of parts of each batch, each at a sampled point of its own; 1 or above"},
    )
    layer_wise: bool = field(
        default=False, metadata={"help": "whether to sample the pooling factors of each layer independently"}
    )
    point: str = field(
        default="", metadata={"help": "only compression point S,Q,K to train at, such as 2,1,1; empty: sample points"}
    )
    sandwich: int = field(
        default=0,
        metadata={
            "help": "number of points to sample in each update besides the largest and the smallest; 0: only one point"
        },
    )


class PointSampler:
    """The points of each update: a function of the seed and the number of the update."""

    def __init__(self, cfg: Any) -> None:
        """Check the settings of `PointSamplingConfig`, and the `seed`. Raises `InputError` with the field."""
        with prefixed("task.point"):
            self.point = CompressionPoint.parse(cfg.point) if cfg.point else None
        with prefixed("task.points"):
            parse_points(cfg.points)
        configured = _configured_space(cfg)
        self.space = configured if self.point is None else CompressionSpace(points=(self.point,))
        self.setting = (
            "task.point" if self.point is not None else "task.points" if configured.points else "task.squeeze"
        )
        """The setting that the points come from, for an error message."""
        weights = _checked_weights(cfg)
        self._weights = weights if self.point is None else ()
        _check_sandwich(cfg, self.space)
        _check_curriculum(cfg)
        _check_parts(cfg)
        self.cfg = cfg

    def points(self, update: int, layers: int) -> list[CompressionPoint]:
        """Return the points of an update for a network of `layers` layers, the largest first."""
        space, weights = self._sampled_from(update)
        count = max(self.cfg.sandwich, self.cfg.points_per_batch)
        draws = [space.sample(self.cfg.seed, update, layers, draw, weights) for draw in range(count)]
        return [space.largest, space.smallest, *draws] if self.cfg.sandwich else draws

    def _sampled_from(self, update: int) -> tuple[CompressionSpace, tuple[float, ...]]:
        """Return the points to sample from, and their weights: during the curriculum, those that have joined."""
        updates = self.cfg.curriculum_updates
        if update >= updates:
            return self.space, self._weights
        points = self.space.all_points()
        order = sorted(
            range(len(points)),
            key=lambda index: savings(points[index]),
            reverse=str(self.cfg.curriculum) == "squeezed_first",
        )
        joined = order[: 1 + update * len(points) // updates]
        space = CompressionSpace(points=tuple(points[index] for index in joined))
        return space, tuple(self._weights[index] for index in joined) if self._weights else ()


def _configured_space(cfg: Any) -> CompressionSpace:
    """Return the space of the task's settings. Errors name the task's fields, which are those of the space."""
    lists = {name: list(getattr(cfg, name)) for name in ("squeeze", "query_pool", "key_value_pool", "points")}
    try:
        return CompressionSpace.from_dict(lists | {"layer_wise": cfg.layer_wise})
    except InputError as error:
        raise InputError(re.sub(r"^compression space: `(\w+)`", r"task.\1", str(error))) from None


def _checked_weights(cfg: Any) -> tuple[float, ...]:
    """Return `point_weights`. Raises `InputError` unless there is none, or one finite value above 0 for each point."""
    weights = tuple(cfg.point_weights)
    if weights and (len(weights) != len(cfg.points) or not all(0 < weight < math.inf for weight in weights)):
        raise InputError(
            f"task.point_weights is {list(weights)}; it must be empty or have a finite value above 0 for each of the "
            f"{len(cfg.points)} in task.points"
        )
    return weights


def _check_sandwich(cfg: Any, space: CompressionSpace) -> None:
    """Raise `InputError` for an invalid `sandwich`."""
    if cfg.sandwich < 0:
        raise InputError(f"task.sandwich is {cfg.sandwich}; it must be 0 or above")
    if cfg.sandwich and space.largest == space.smallest:
        raise InputError(f"task.sandwich is {cfg.sandwich}; it must be 0 with only one point")


def _check_curriculum(cfg: Any) -> None:
    """Raise `InputError` for an invalid curriculum."""
    curriculum, updates = str(cfg.curriculum), cfg.curriculum_updates
    if updates < 0 or (updates > 0) != (curriculum != "none"):
        allowed = "0 without a curriculum" if curriculum == "none" else f"1 or above with task.curriculum={curriculum}"
        raise InputError(f"task.curriculum_updates is {updates}; it must be {allowed}")
    if updates and cfg.layer_wise:
        raise InputError(f"task.curriculum is {curriculum}; it must be none with task.layer_wise")


def _check_parts(cfg: Any) -> None:
    """Raise `InputError` for an invalid `points_per_batch`."""
    parts = cfg.points_per_batch
    if parts < 1 or (parts > 1 and cfg.sandwich):
        allowed = "1 with task.sandwich" if cfg.sandwich else "1 or above"
        raise InputError(f"task.points_per_batch is {parts}; it must be {allowed}")
