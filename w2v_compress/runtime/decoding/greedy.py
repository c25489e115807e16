"""Greedy CTC decoding: the most probable unit of every frame. It is the default of a recognizer."""

from ...data.units import Units
from .words import DecodedText, LogProbs, words_of_path


class GreedyDecoder:
    """Decode the best CTC path. Of several units equally probable in a frame, the first is taken."""

    def __init__(self, units: Units, seconds_per_frame: float) -> None:
        self.units = units
        self.seconds_per_frame = seconds_per_frame

    def __call__(self, log_probs: LogProbs, /) -> DecodedText:
        """Decode logits or log-probabilities `(frames, units)`."""
        return words_of_path(log_probs.argmax(-1), self.units, self.seconds_per_frame)
