"""Search for points that pool each layer by itself: which layers bear pooling, and the best points for a budget.

The search is greedy, and ours: Vyas et al. 2022 pool all layers alike. It is guided by the CTC loss of the transcripts,
which also changes where the word error rate of a small set does not.
"""

import dataclasses
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from ..data.manifest import Utterance
from ..data.units import ctc_frames
from ..errors import InputError
from ..nn.compression import CompressionPoint
from ..progress import Progress, no_progress
from ..runtime.recognizer import Recognizer
from .sweep import count_macs

POOLS = ("query_pool", "key_value_pool")


@dataclass(frozen=True)
class ScoredPoint:
    """A point, its loss and its cost."""

    point: CompressionPoint
    loss: float
    """CTC loss per output unit of the transcripts, in nats."""
    macs_per_second: float
    """Multiply-accumulates of the network per second of audio."""


@dataclass(frozen=True)
class LayerCost:
    """Cost of pooling one layer and no other."""

    layer: int
    """Number of the layer, from 1."""
    pool: str
    """`query_pool` or `key_value_pool`."""
    scored: ScoredPoint
    loss_increase: float


@dataclass(frozen=True)
class PointSearch:
    """Result of `search_points`."""

    start: ScoredPoint
    layers: list[LayerCost]
    """Cost of the first pooling factor in each layer, lowest increase of the loss first."""
    steps: list[ScoredPoint]
    """Points of the search, each with one factor more than the one before."""
    uniform: list[ScoredPoint]
    """Points with the same factors in all layers, for comparison."""
    utterances: int

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON, with points as text."""
        return {
            "start": _to_dict(self.start),
            "layers": [
                {
                    "layer": cost.layer,
                    "pool": cost.pool,
                    "loss_increase": cost.loss_increase,
                    **_to_dict(cost.scored),
                }
                for cost in self.layers
            ],
            "steps": [_to_dict(step) for step in self.steps],
            "uniform": [_to_dict(point) for point in self.uniform],
            "utterances": self.utterances,
        }


def _to_dict(scored: ScoredPoint) -> dict[str, Any]:
    return dataclasses.asdict(scored) | {"point": str(scored.point)}


class Scorer:
    """Computes the loss and the cost of points on a set of utterances."""

    def __init__(self, recognizer: Recognizer, utterances: Sequence[Utterance], batch_size: int) -> None:
        """Score with `recognizer`. Raises `InputError` when the utterances have no text."""
        self.recognizer, self.utterances, self.batch_size = recognizer, utterances, batch_size
        self.labels = [recognizer.header.units.encode(utterance.text) for utterance in utterances]
        if not any(self.labels):
            raise InputError("the utterances have no text; the search needs transcripts")

    def score(self, point: CompressionPoint) -> ScoredPoint:
        """Return the loss and the cost of `point`.

        Utterances whose text needs more frames than they have are left out of the loss. Raises `InputError` when
        audio cannot be read or the network does not support the point.
        """
        loss = labels = 0.0
        paths = (utterance.path for utterance in self.utterances)
        with warnings.catch_warnings():  # few models were trained for every point of a search
            warnings.simplefilter("ignore", UserWarning)
            results = list(self.recognizer.recognize(paths, batch_size=self.batch_size, point=point))
        for result, target in zip(results, self.labels, strict=True):
            if isinstance(result, InputError):
                raise result
            log_probs = torch.from_numpy(result.log_probs).float()
            if target and ctc_frames(target) <= len(log_probs):
                frames, units = torch.tensor(len(log_probs)), torch.tensor(len(target))
                loss += float(F.ctc_loss(log_probs, torch.tensor(target), frames, units, reduction="sum"))
                labels += len(target)
        if not labels:
            raise InputError("every utterance is too short for its text")
        seconds = sum(utterance.seconds for utterance in self.utterances)
        macs = count_macs(self.recognizer, [utterance.samples for utterance in self.utterances], point)
        return ScoredPoint(point, loss / labels, macs / seconds)


def search_points(
    recognizer: Recognizer,
    utterances: Sequence[Utterance],
    squeeze: int,
    factors: Sequence[int],
    *,
    budget: float = 0.0,
    batch_size: int = 8,
    progress: Progress = no_progress,
) -> PointSearch:
    """Search greedily for points at squeeze factor `squeeze` that pool layers by `factors`.

    The search starts without pooling. Each step raises the factor of queries, or of keys and values, in the layer where
    the loss increases least for the compute that is saved. It ends when the multiply-accumulates are at most `budget`
    times those of the start, or when all layers have the largest factor.

    Args:
        recognizer: The recognizer.
        utterances: Utterances with transcripts; not those on which the points are compared later.
        squeeze: Squeeze factor of all points.
        factors: Pooling factors, 1 among them.
        budget: Share of the compute of the start, 0 to 1, at which the search ends.
        batch_size: Number of utterances in a batch.
        progress: Counts steps, out of those without a budget.

    Raises:
        InputError: An argument is invalid, or an utterance has bad audio.
    """
    ordered = sorted(set(factors))
    if ordered[:1] != [1] or len(ordered) < 2:
        raise InputError(f"the pooling factors are {list(factors)}; they must be 1 and at least one more")
    if not 0 <= budget <= 1:
        raise InputError(f"`budget` is {budget}; it must be from 0 to 1")
    if not utterances:
        raise InputError("there are no utterances to search on")
    scorer = Scorer(recognizer, utterances, batch_size)
    layers = recognizer.header.architecture.encoder_layers
    raises = 2 * layers * (len(ordered) - 1)
    start = scorer.score(CompressionPoint(squeeze))
    uniform = [start] + [
        scorer.score(CompressionPoint(squeeze, query, key_value))
        for query in ordered
        for key_value in ordered
        if query * key_value > 1
    ]
    found, first = [start], []
    while found[-1].macs_per_second > budget * start.macs_per_second:
        candidates = [
            (layer, pool, scorer.score(point)) for layer, pool, point in _raised(found[-1].point, layers, ordered)
        ]
        if not candidates:
            break
        if len(found) == 1:
            first = candidates
        progress(len(found), raises)
        found.append(min((scored for _, _, scored in candidates), key=lambda scored: _price(found[-1], scored)))
    costs = [LayerCost(layer + 1, pool, scored, scored.loss - start.loss) for layer, pool, scored in first]
    costs.sort(key=lambda cost: cost.loss_increase)
    return PointSearch(start, costs, found[1:], uniform, len(utterances))


def _raised(point: CompressionPoint, layers: int, factors: Sequence[int]) -> list[tuple[int, str, CompressionPoint]]:
    """Return the points that raise one factor of one layer to the next of `factors`, with the layer and the pool."""
    pools = [list(factors) for factors in zip(*point.pools_per_layer(layers), strict=True)]
    raised = []
    for index, pool in enumerate(POOLS):
        for layer, factor in enumerate(pools[index]):
            if factor < factors[-1]:
                changed = [list(each) for each in pools]
                changed[index][layer] = factors[factors.index(factor) + 1]
                raised.append((layer, pool, CompressionPoint(point.squeeze, *map(tuple, changed))))
    return raised


def _price(before: ScoredPoint, after: ScoredPoint) -> tuple[float, float]:
    """Return the increase of the loss for each multiply-accumulate that is saved; gains cost less the larger they are.

    A step that saves nothing, as on very short audio, comes last.
    """
    saved, increase = before.macs_per_second - after.macs_per_second, after.loss - before.loss
    if saved <= 0:
        return math.inf, increase
    return increase / saved, increase


def search_table(search: PointSearch) -> tuple[list[str], list[list[str]]]:
    """Return column names and lines of the points of the search and the uniform ones."""
    rows = [("start", search.start)] + [("search", step) for step in search.steps]
    rows += [("all layers alike", scored) for scored in search.uniform[1:]]
    lines = [
        [
            kind,
            str(scored.point),
            f"{scored.loss:.4f}",
            f"{1e-9 * scored.macs_per_second:.3f}",
            f"{100 * scored.macs_per_second / search.start.macs_per_second:.1f}%",
        ]
        for kind, scored in rows
    ]
    return ["", "point", "loss", "GMAC per s", "of the start"], lines


def layer_table(search: PointSearch) -> tuple[list[str], list[list[str]]]:
    """Return column names and lines of the cost of pooling single layers."""
    lines = [
        [
            str(cost.layer),
            "queries" if cost.pool == "query_pool" else "keys and values",
            f"{cost.loss_increase:+.4f}",
            f"{100 * (1 - cost.scored.macs_per_second / search.start.macs_per_second):.1f}%",
        ]
        for cost in search.layers
    ]
    return ["layer", "pooled", "increase of the loss", "compute saved"], lines
