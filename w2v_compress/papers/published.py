"""What the papers report, for their tables beside ours. Only what they state: ratios are worked out from it."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Published:
    """One model as a paper reports it; None or empty where it says nothing."""

    parameters: float | None = None
    megabytes: float | None = None
    """Of the saved state, of 1e6 bytes; modules that only pre-training uses are in it."""
    cpu_seconds: float | None = None
    """For the whole of LibriSpeech dev-clean, batch 1, on 8 cores."""
    wer: tuple[float, ...] = ()
    """Percent on dev-clean, greedy and without a language model: one for each run reported."""


BIGFOOT: dict[str, Published] = {
    "large": Published(parameters=317e6, megabytes=1262, cpu_seconds=4433, wer=(2.63,)),  # wav2vec_big_960h
    "large-int8-paper": Published(parameters=317e6, megabytes=354, cpu_seconds=4079, wer=(2.75,)),
    "student-12": Published(wer=(5.93, 6.14)),
    "student-4": Published(parameters=65e6, megabytes=262, cpu_seconds=1560, wer=(9.51,)),
    "base": Published(wer=(3.17,)),
}
"""Peng et al. 2021, "Shrinking Bigfoot: Reducing wav2vec 2.0 footprint" (arXiv 2103.15760), the tables of its results,
under the names of `evaluation.bigfoot.ENTRIES`."""
