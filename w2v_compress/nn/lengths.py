"""Convert between padding masks and the valid lengths of padded batches."""

import torch
from torch import Tensor


def valid_mask(lengths: Tensor, time: int) -> Tensor:
    """Return a bool mask `(batch, time)` that is true at the first `lengths` `(batch,)` positions of each row."""
    return torch.arange(time, device=lengths.device) < lengths.unsqueeze(1)


def valid_lengths(padding_mask: Tensor | None) -> Tensor | None:
    """Return the valid samples `(batch,)` of fairseq's padding mask `(batch, samples)`; None if no row is padded."""
    if padding_mask is None or not padding_mask.any():
        return None
    return (~padding_mask).sum(1)
