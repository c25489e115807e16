"""The best unit of every frame: what a recognizer does unless told otherwise."""

from torch import Tensor

from ...data.units import Units
from .words import Decoded, words_of_path


class GreedyDecoder:
    """The words of the best path. Of several units equally likely in a frame, the first counts."""

    def __init__(self, units: Units, seconds_per_frame: float) -> None:
        self.units = units
        self.seconds_per_frame = seconds_per_frame

    def __call__(self, log_probs: Tensor, /) -> Decoded:
        """(frames, units), logits or log-probabilities -> words."""
        return words_of_path(log_probs.argmax(-1), self.units, self.seconds_per_frame)
