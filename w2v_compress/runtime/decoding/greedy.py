"""Greedy CTC decoding: the most probable unit of every frame. It is the default of a recognizer."""

from torch import Tensor

from ...data.units import Units
from .words import DecodedText, words_of_path


class GreedyDecoder:
    """Decode the best CTC path. Of several units equally probable in a frame, the first is taken."""

    def __init__(self, units: Units, seconds_per_frame: float) -> None:
        self.units = units
        self.seconds_per_frame = seconds_per_frame

    def __call__(self, log_probs: Tensor, /) -> DecodedText:
        """Decode logits or log-probabilities `(frames, units)`."""
        return words_of_path(log_probs.argmax(-1), self.units, self.seconds_per_frame)
