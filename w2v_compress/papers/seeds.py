"""Error rates of models trained with several seeds, with intervals over seeds and over utterances."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from scipy import stats

from ..evaluation.wer import CONFIDENCE, ErrorCounts, compare, error_rate

BOOTSTRAP_SEED = 1


def seed_interval(values: Sequence[float]) -> dict[str, float] | None:
    """Return the mean and its 95% t-interval over seeds; None for a single value, which has no interval."""
    if len(values) == 1:
        return None
    mean = statistics.fmean(values)
    margin = stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * stats.sem(values)
    return {"value": mean, "low": float(mean - margin), "high": float(mean + margin)}


def pool_seeds(runs: Sequence[ErrorCounts]) -> ErrorCounts:
    """Add up the errors and lengths of all seeds, so that resampling draws the same utterances for every seed."""
    return ErrorCounts(np.sum([run.errors for run in runs], axis=0), np.sum([run.lengths for run in runs], axis=0))


def rates(runs: Sequence[ErrorCounts]) -> dict[str, Any]:
    """Return the error rate of each seed, and the mean with intervals over seeds (None for one seed) and utterances."""
    return _summary([run.rate for run in runs], asdict(error_rate(pool_seeds(runs), seed=BOOTSTRAP_SEED)))


def difference(first: Sequence[ErrorCounts], second: Sequence[ErrorCounts]) -> dict[str, Any]:
    """Return the error rate of `second` minus that of `first`, paired by seed and by utterance, as `rates` does."""
    by_seed = [run.rate - other.rate for other, run in zip(first, second, strict=True)]
    return _summary(by_seed, asdict(compare(pool_seeds(first), pool_seeds(second), seed=BOOTSTRAP_SEED)))


def _summary(by_seed: list[float], over_utterances: dict[str, float]) -> dict[str, Any]:
    """Return the fields that the results files store."""
    return {
        "by_seed": by_seed,
        "over_seeds": seed_interval(by_seed),
        "over_strings": over_utterances,
    }


def combined_interval(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return the mean with an interval over seeds and utterances together.

    The margins of both intervals are added in quadrature, as those of independent sources of variation. Each contains
    the variation of single utterances, so the result is rather too wide.
    """
    seeds, utterances = summary["over_seeds"], summary["over_strings"]
    if seeds is None:
        return dict(utterances)
    mean = utterances["value"]
    low = math.hypot(mean - utterances["low"], seeds["value"] - seeds["low"])
    high = math.hypot(utterances["high"] - mean, seeds["high"] - seeds["value"])
    return {"value": mean, "low": mean - low, "high": mean + high}


def cells(summary: Mapping[str, Any]) -> list[str]:
    """Format the mean, the interval over seeds and the interval over utterances in per cent."""
    mean, utterances = mean_and_interval(summary["over_strings"])
    return [mean, mean_and_interval(summary["over_seeds"])[1], utterances]


def combined_cell(summary: Mapping[str, Any]) -> str:
    """Format the mean and its interval over seeds and utterances together, in per cent."""
    return " ".join(mean_and_interval(combined_interval(summary)))


def mean_and_interval(interval: Mapping[str, float] | None) -> tuple[str, str]:
    """Format a mean and its interval in per cent; None stands for a single model, which has no interval."""
    if interval is None:
        return "", "one model"
    value, low, high = (f"{100 * interval[name]:.2f}" for name in ("value", "low", "high"))
    return value, f"[{low}, {high}]"
