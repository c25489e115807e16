"""Decode log-probabilities of a network into words with times; docs/decoding.md is the user's guide.

`beam_search` is not imported here because it needs the extra `[lm]`.
"""

from .greedy import GreedyDecoder
from .words import DecodedText, Decoder, Word

__all__ = ["DecodedText", "Decoder", "GreedyDecoder", "Word"]
