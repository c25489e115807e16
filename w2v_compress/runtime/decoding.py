"""From the network's output to units."""

from torch import Tensor

BLANK = 0


def greedy_ctc(scores: Tensor) -> list[int]:
    """The units of the best path: repeats collapsed, then blanks removed (Graves et al. 2006, section 3.2).

    scores: (frames, units), logits or log-probabilities; the blank is unit 0, fairseq's `<s>`.
    """
    best = scores.argmax(-1)
    kept = best != BLANK
    kept[1:] &= best[1:] != best[:-1]
    return best[kept].tolist()
