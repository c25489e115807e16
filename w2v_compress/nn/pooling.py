"""Fewer frames and back: mean pooling that knows of padding, and upsampling by repetition."""

import torch
import torch.nn.functional as F
from torch import Tensor


def pooled_length(length: Tensor, factor: int) -> Tensor:
    """How many groups of `factor` frames hold one of the first `length` frames: both (batch,)."""
    return (length + factor - 1) // factor


def mean_pool(x: Tensor, factor: int, lengths: Tensor | None) -> Tensor:
    """(batch, time, channels) -> (batch, ceil(time / factor), channels): means of `factor` frames, the rest at the end.

    With `lengths` (batch,) the means are over valid frames alone, so that each utterance of a batch gets what it gets
    by itself; groups of padding only are 0.
    """
    if factor == 1:
        return x
    time = x.shape[1]
    if lengths is None:
        whole = time - time % factor
        pooled = x[:, :whole].unflatten(1, (whole // factor, factor)).mean(2)
        return pooled if whole == time else torch.cat([pooled, x[:, whole:].mean(1, keepdim=True)], 1)
    groups = (time + factor - 1) // factor
    frame = torch.arange(time, device=x.device)
    x = x.masked_fill((frame >= lengths.unsqueeze(1)).unsqueeze(-1), 0)
    sums = F.pad(x, (0, 0, 0, groups * factor - time)).unflatten(1, (groups, factor)).sum(2)
    counts = (lengths.unsqueeze(1) - frame[::factor]).clamp(1, factor)  # (batch, groups)
    return sums / counts.unsqueeze(-1).to(sums)


def repeat_upsample(x: Tensor, factor: int, time: int) -> Tensor:
    """(batch, groups, channels) -> (batch, time, channels): each frame `factor` times, cut to `time`."""
    if factor == 1:
        return x
    return x.unsqueeze(2).expand(-1, -1, factor, -1).flatten(1, 2)[:, :time]
