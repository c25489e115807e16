"""From a network's log-probabilities to words and their times; docs/decoding.md is for users.

`beam_search` is not imported here: it needs the extra `[lm]`.
"""

from .greedy import GreedyDecoder
from .words import Decoded, Decoder, Word

__all__ = ["Decoded", "Decoder", "GreedyDecoder", "Word"]
