"""The interface of an engine."""

from collections.abc import Sequence
from typing import Protocol

from ...data.audio import AudioArray
from ...nn.compression import CompressionPoint
from ..decoding.words import LogProbs


class Engine(Protocol):
    """A network that is ready to run. All methods may be called from several threads."""

    name: str
    precision: str
    """`fp32`, `bf16` or `int8`."""
    device: str
    """`cpu`, `cuda` or `cuda:N`."""
    threads: int
    """Number of CPU threads."""
    batch_seconds: float | None
    """Longest batch in seconds, including padding; None if the engine pads nothing, so that a batch may have any size
    and lengths."""

    def log_probs(self, waveforms: Sequence[AudioArray], point: CompressionPoint) -> list[LogProbs]:
        """Compute log-probabilities `(frames, units)` of each waveform `(samples,)` at a compression point.

        Waveforms are at 16 kHz, may differ in length, and are normalized if the model needs it. Each has the result
        that it has alone.
        """

    def keep_points(self, count: int) -> None:
        """Keep what is computed once for a compression point in memory for at least `count` points."""
