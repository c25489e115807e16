"""Convolutions on channels-last input, computed as matrix products over windows of their input."""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .architecture import LEAST_CHANNELS


def strided_windows(x: Tensor, kernel: int, stride: int) -> Iterator[Tensor]:
    """Split a convolution into products: yield one operand `(batch, frames, taps * channels)` for each `stride` taps.

    `x` is `(batch, time, channels)`. The operands hold the taps [0, stride), [stride, 2 * stride), ... of each window;
    the last one may have fewer taps. One-channel input has a single operand with all taps.
    """
    batch, time, channels = x.shape
    frames = (time - kernel) // stride + 1
    if channels == 1:  # copying overlapping windows of a waveform is cheaper than a second product
        yield overlapping_windows(x, kernel, stride)
        return
    for start in range(0, kernel, stride):
        taps = min(stride, kernel - start)
        if taps == stride:
            yield x[:, start : start + frames * stride].reshape(batch, frames, taps * channels)
        else:
            window = x[:, start:].unfold(1, taps, stride)[:, :frames]  # (batch, frames, channels, taps)
            yield window.transpose(2, 3).reshape(batch, frames, taps * channels)


class _TrainedWindows(torch.autograd.Function):
    """`strided_windows` for training: the gradients of all operands are added up in one tensor.

    Autograd would fill a tensor of zeros for each operand, which takes a tenth of an update of a small network on a
    CPU. The kernel must not be shorter than the stride.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: int, stride: int) -> tuple[Tensor, ...]:
        ctx.shape, ctx.kernel, ctx.stride = x.shape, kernel, stride
        return tuple(operand.clone() for operand in strided_windows(x, kernel, stride))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        batch, time, channels = ctx.shape
        kernel, stride = ctx.kernel, ctx.stride
        frames = (time - kernel) // stride + 1
        total = gradients[0].new_empty(ctx.shape)
        first, *others = gradients
        covered = frames * stride
        total[:, :covered] = first.view(batch, covered, channels)
        total[:, covered:] = 0
        for start, gradient in zip(range(stride, kernel, stride), others, strict=True):
            taps = gradient.shape[2] // channels
            for tap in range(taps):
                rows = total[:, start + tap : start + tap + (frames - 1) * stride + 1 : stride]
                rows += gradient[:, :, tap * channels : (tap + 1) * channels]
        return total, None, None


def overlapping_windows(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Return the windows of `x` `(batch, time, channels)` as a view `(batch, frames, kernel * channels)`.

    The rows of the view overlap in memory if `kernel` is larger than `stride`.
    """
    channels = x.shape[2]
    return x.flatten(1).unfold(1, kernel * channels, stride * channels)


class StridedConvolution(nn.Module):
    """Convolution without padding on channels-last input, with the parameters of `nn.Conv1d`.

    Maps `(batch, time, in)` to `(batch, (time - kernel) // stride + 1, out)`.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, bias: bool) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        nn.init.kaiming_normal_(self.weight)

    def effective_weight(self) -> Tensor:
        """Return the weight of the convolution, `(out, in, kernel)`."""
        return self.weight

    def matrices(self) -> list[Tensor]:
        """Return the weights `(out, taps * in)` to multiply with the operands of `strided_windows`, in their order."""
        out_channels, in_channels, _ = self.weight.shape
        taps = self.kernel if in_channels == 1 else self.stride
        parts = self.effective_weight().split(taps, dim=2)
        return [part.transpose(1, 2).reshape(out_channels, -1) for part in parts]

    def forward(self, x: Tensor) -> Tensor:
        """Convolve `x` `(batch, time, in)`."""
        if x.requires_grad and torch.is_grad_enabled() and x.shape[2] > 1 and self.kernel >= self.stride:
            windows: Iterable[Tensor] = _TrainedWindows.apply(x, self.kernel, self.stride)  # type: ignore[no-untyped-call]
        else:
            windows = strided_windows(x, self.kernel, self.stride)
        products = zip(windows, self.matrices(), strict=True)
        window, matrix = next(products)
        out = F.linear(window, matrix, self.bias)
        for window, matrix in products:
            out = out + F.linear(window, matrix)
        return out


class WeightNormConvolution(nn.Module):
    """Grouped "same" convolution with weight normalization over the kernel, as fairseq's `weight_norm(dim=2)`.

    Maps `(batch, time, channels)` to `(batch, ceil(time / stride), channels)`. An even kernel covers one frame more of
    the past than of the future. Output t is output `stride` * t at stride 1, so one convolution serves every squeeze
    factor.
    """

    def __init__(self, channels: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        weight = torch.empty(channels, channels // groups, kernel).normal_(std=math.sqrt(4 / (kernel * channels)))
        # Computing the norm on the meta device would make torch import its compiler.
        gain = weight.new_empty(1, 1, kernel) if weight.is_meta else weight.norm(dim=(0, 1), keepdim=True)
        self.weight_g = nn.Parameter(gain)
        self.weight_v = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(channels))

    def effective_weight(self) -> Tensor:
        """Return the normalized weight, `(channels, channels / groups, kernel)`."""
        return torch._weight_norm(self.weight_v, self.weight_g, 2)

    def forward(self, x: Tensor, stride: int = 1) -> Tensor:
        """Convolve `x` `(batch, time, channels)` and return every `stride`-th frame."""
        return grouped_convolution(x, self.effective_weight(), self.bias, stride, self.groups)


class FoldedPositionalConvolution(nn.Module):
    """`WeightNormConvolution` with the weight norm folded into the weight, for inference; same input and output.

    (batch, time, channels) -> (batch, ceil(time / stride), channels)
    """

    def __init__(self, weight: Tensor, bias: Tensor, groups: int) -> None:
        """Compute with `weight` (channels, channels / groups, kernel)."""
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = bias

    def forward(self, x: Tensor, stride: int = 1) -> Tensor:
        """Convolve `x` with "same" padding."""
        return grouped_convolution(x, self.weight, self.bias, stride, self.groups)


def grouped_convolution(x: Tensor, weight: Tensor, bias: Tensor, stride: int, groups: int) -> Tensor:
    """Compute a `WeightNormConvolution` from its normalized weight `(channels, channels / groups, kernel)`.

    Maps `x` `(batch, time, channels)` to `(batch, ceil(time / stride), channels)`.
    """
    frames = (x.shape[1] + stride - 1) // stride
    missing = LEAST_CHANNELS - weight.shape[1]
    if missing > 0 and (_precision(x) == torch.bfloat16 or torch.compiler.is_exporting()):  # others may run it in bf16
        x = F.pad(x.unflatten(2, (groups, -1)), (0, missing)).flatten(2)
        weight = F.pad(weight, (0, 0, 0, missing))
    out: Tensor = F.conv1d(x.transpose(1, 2), weight, bias, stride, padding=weight.shape[2] // 2, groups=groups)
    return out[:, :, :frames].transpose(1, 2)


def _precision(x: Tensor) -> torch.dtype:
    """Return the dtype that a product with `x` computes in, under autocast or not."""
    device = x.device.type
    if device in ("cpu", "cuda") and torch.is_autocast_enabled(device):  # others, such as meta, raise
        return torch.get_autocast_dtype(device)
    return x.dtype


def split_groups(x: Tensor, groups: int, kernel: int) -> Tensor:
    """Split `(batch, time, channels)` into contiguous, padded groups for a grouped "same" convolution.

    Returns `(batch, groups, time + kernel - 1, channels / groups)`.
    """
    padded = F.pad(x, (0, 0, kernel // 2, (kernel - 1) // 2))
    split: Tensor = padded.unflatten(2, (groups, -1))
    return split.transpose(1, 2).contiguous()


def group_windows(frames: Tensor, kernel: int, stride: int) -> Tensor:
    """Copy the windows of one group of `split_groups`: `(time + kernel - 1, width)` -> `(frames, kernel * width)`."""
    windows = overlapping_windows(frames.unsqueeze(0), kernel, stride)[0]
    # Always copy: torch regards a single row as contiguous whatever its stride, and int8 products misread that stride.
    return windows.clone(memory_format=torch.contiguous_format)
