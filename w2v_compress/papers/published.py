"""Results that the papers report. Ratios are computed from them."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Published:
    """Reported results of one model; None or empty where the paper reports none."""

    parameters: float | None = None
    """Number of parameters."""
    megabytes: float | None = None
    """Size of the saved state in 1e6 bytes, including modules that only pre-training uses."""
    cpu_seconds: float | None = None
    """CPU time in seconds for LibriSpeech dev-clean, batch 1, on 8 cores."""
    wer: tuple[float, ...] = ()
    """WER in per cent on dev-clean with greedy decoding and no language model, for each reported run."""


BIGFOOT: dict[str, Published] = {
    "large": Published(parameters=317e6, megabytes=1262, cpu_seconds=4433, wer=(2.63,)),  # wav2vec_big_960h
    "large-int8-paper": Published(parameters=317e6, megabytes=354, cpu_seconds=4079, wer=(2.75,)),
    "student-12": Published(wer=(5.93, 6.14)),
    "student-4": Published(parameters=65e6, megabytes=262, cpu_seconds=1560, wer=(9.51,)),
    "base": Published(wer=(3.17,)),
}
"""Results tables of Peng et al. 2021, "Shrinking Bigfoot: Reducing wav2vec 2.0 footprint" (arXiv 2103.15760), by the
names of `bigfoot.ENTRIES`."""
