"""Error rates of models that were trained several times: what other seeds, and what other utterances, would give."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from scipy import stats

from ..evaluation.wer import CONFIDENCE, ErrorCounts, compare, error_rate

BOOTSTRAP_SEED = 1


def over_seeds(values: Sequence[float]) -> dict[str, float]:
    """The mean and its 95% t-interval, whose ends say what other seeds would give; two values at least."""
    mean = statistics.fmean(values)
    reach = stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * stats.sem(values)
    return {"value": mean, "low": float(mean - reach), "high": float(mean + reach)}


def pooled(runs: Sequence[ErrorCounts]) -> ErrorCounts:
    """The runs of all seeds as one: resampling its utterances resamples them for every seed alike."""
    return ErrorCounts(np.sum([run.errors for run in runs], axis=0), np.sum([run.lengths for run in runs], axis=0))


def rates(runs: Sequence[ErrorCounts]) -> dict[str, Any]:
    """The rate by seed, and its mean with the interval over seeds (None for a single one) and over utterances."""
    return _summary([run.rate for run in runs], asdict(error_rate(pooled(runs), seed=BOOTSTRAP_SEED)))


def difference(first: Sequence[ErrorCounts], second: Sequence[ErrorCounts]) -> dict[str, Any]:
    """The rate of `second` minus that of `first`, seed by seed and utterance by utterance."""
    by_seed = [run.rate - other.rate for other, run in zip(first, second, strict=True)]
    return _summary(by_seed, asdict(compare(pooled(first), pooled(second), seed=BOOTSTRAP_SEED)))


def _summary(by_seed: list[float], over_utterances: dict[str, float]) -> dict[str, Any]:
    return {
        "by_seed": by_seed,
        "over_seeds": over_seeds(by_seed) if len(by_seed) > 1 else None,
        "over_strings": over_utterances,
    }


def cells(summary: Mapping[str, Any]) -> list[str]:
    """Mean, interval over seeds and interval over utterances of a `rates` or `difference`, in per cent, as text."""
    mean, utterances = points(summary["over_strings"])
    return [mean, points(summary["over_seeds"])[1], utterances]


def points(interval: Mapping[str, float] | None) -> tuple[str, str]:
    """A mean and its interval in per cent, each as text."""
    if interval is None:
        return "", "one model"
    value, low, high = (f"{100 * interval[name]:.2f}" for name in ("value", "low", "high"))
    return value, f"[{low}, {high}]"
