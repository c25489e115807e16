"""Change the frame rate: mean pooling that excludes padding, and upsampling by repetition."""

import torch
import torch.nn.functional as F
from torch import Tensor


def pooled_length(length: Tensor, factor: int) -> Tensor:
    """Return the number of groups of `factor` frames that contain the first `length` frames, both `(batch,)`."""
    return (length + factor - 1) // factor


def mean_pool(x: Tensor, factor: int, lengths: Tensor | None) -> Tensor:
    """Average each group of `factor` frames: `(batch, time, channels)` -> `(batch, ceil(time / factor), channels)`.

    The last group may be shorter. With `lengths` `(batch,)` only valid frames are averaged, so that an utterance has
    the same result in a batch as alone; groups of padding only are 0. A `factor` of 1 returns `x` unchanged.
    """
    if factor == 1:
        return x
    time = x.shape[1]
    if lengths is None:
        even = time - time % factor
        pooled: Tensor = x[:, :even].unflatten(1, (even // factor, factor)).mean(2)
        return pooled if even == time else torch.cat([pooled, x[:, even:].mean(1, keepdim=True)], 1)
    groups = (time + factor - 1) // factor
    frame = torch.arange(time, device=x.device)
    x = x.masked_fill((frame >= lengths.unsqueeze(1)).unsqueeze(-1), 0)
    sums: Tensor = F.pad(x, (0, 0, 0, groups * factor - time)).unflatten(1, (groups, factor)).sum(2)
    counts = (lengths.unsqueeze(1) - frame[::factor]).clamp(1, factor)  # (batch, groups)
    return sums / counts.unsqueeze(-1).to(sums)


def repeat_upsample(x: Tensor, factor: int, time: int) -> Tensor:
    """Repeat each frame `factor` times and truncate: `(batch, groups, channels)` -> `(batch, time, channels)`."""
    if factor == 1:
        return x
    return x.unsqueeze(2).expand(-1, -1, factor, -1).flatten(1, 2)[:, :time]
