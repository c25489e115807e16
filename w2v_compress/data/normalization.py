"""Normalize audio to zero mean and unit variance."""

import numpy as np

from .audio import AudioArray


class Moments:
    """Running count, mean and variance of streamed audio.

    The update is that of Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm for computing
    sample variances".
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = 0.0
        self._squares = 0.0  # sum of squared deviations from the mean

    def add(self, block: AudioArray) -> None:
        """Update the moments with the samples of `block` (samples,)."""
        if not block.size:
            return
        wide = block.astype(np.float64)
        mean, total = wide.mean(), self.count + block.size
        distance = mean - self.mean
        self._squares += block.size * wide.var() + distance**2 * self.count * block.size / total
        self.mean += distance * block.size / total
        self.count = total

    def normalize(self, audio: AudioArray) -> AudioArray:
        """Normalize `audio` (samples,) by the moments of all blocks added so far."""
        variance = self._squares / self.count
        # 1e-5 is the epsilon of the layer norm that fairseq applies to the waveform
        normalized: AudioArray = ((audio.astype(np.float64) - self.mean) / np.sqrt(variance + 1e-5)).astype(np.float32)
        return normalized


def normalize(audio: AudioArray) -> AudioArray:
    """Normalize `audio` (samples,) to zero mean and unit variance, as fairseq does with `task.normalize=true`."""
    moments = Moments()
    moments.add(audio)
    return moments.normalize(audio)
