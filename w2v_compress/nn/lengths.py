"""Valid lengths of padded batches."""

import torch
from torch import Tensor


def valid_mask(lengths: Tensor, time: int) -> Tensor:
    """`(batch, time)` bool, true at the first `lengths` positions; lengths: `(batch,)`."""
    return torch.arange(time, device=lengths.device) < lengths.unsqueeze(1)


def valid_lengths(padding_mask: Tensor | None) -> Tensor | None:
    """Fairseq's padding mask (batch, samples) -> valid samples (batch,); None when no row is padded."""
    if padding_mask is None or not padding_mask.any():
        return None
    return (~padding_mask).sum(1)
