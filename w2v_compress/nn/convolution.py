"""Convolutions on channels-last input, and the windows that make them matrix products."""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def strided_windows(x: Tensor, kernel: int, stride: int) -> Iterator[Tensor]:
    """The operands of a convolution's products: (batch, time, channels) -> (batch, frames, taps * channels) for taps
    [0, stride), [stride, 2 stride), ...
    """
    batch, time, channels = x.shape
    frames = (time - kernel) // stride + 1
    if channels == 1:  # copying overlapping windows of a waveform is cheaper than a second product
        yield whole_windows(x, kernel, stride)
        return
    for start in range(0, kernel, stride):
        taps = min(stride, kernel - start)
        if taps == stride:
            yield x[:, start : start + frames * stride].reshape(batch, frames, taps * channels)
        else:
            window = x[:, start:].unfold(1, taps, stride)[:, :frames]  # (batch, frames, channels, taps)
            yield window.transpose(2, 3).reshape(batch, frames, taps * channels)


def whole_windows(x: Tensor, kernel: int, stride: int) -> Tensor:
    """(batch, time, channels) -> (batch, frames, kernel * channels), a view whose rows overlap in memory."""
    channels = x.shape[2]
    return x.flatten(1).unfold(1, kernel * channels, stride * channels)


class StridedConvolution(nn.Module):
    """`nn.Conv1d` without padding, on channels-last input and with Conv1d's parameters.

    (batch, time, in) -> (batch, (time - kernel) // stride + 1, out)
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, bias: bool) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        nn.init.kaiming_normal_(self.weight)

    def effective_weight(self) -> Tensor:
        """The weight to compute with, (out, in, kernel)."""
        return self.weight

    def matrices(self) -> list[Tensor]:
        """The weight of each product, (out, taps * in), in the order of `strided_windows`."""
        out_channels, in_channels, _ = self.weight.shape
        taps = self.kernel if in_channels == 1 else self.stride
        parts = self.effective_weight().split(taps, dim=2)
        return [part.transpose(1, 2).reshape(out_channels, -1) for part in parts]

    def forward(self, x: Tensor) -> Tensor:
        products = zip(strided_windows(x, self.kernel, self.stride), self.matrices(), strict=True)
        window, matrix = next(products)
        out = F.linear(window, matrix, self.bias)
        for window, matrix in products:
            out = out + F.linear(window, matrix)
        return out


class WeightNormConvolution(nn.Module):
    """Grouped `nn.Conv1d` with "same" padding under weight norm over the kernel (fairseq: `weight_norm(dim=2)`).

    (batch, time, channels) -> (batch, ceil(time / stride), channels). An even kernel looks one frame further back than
    ahead. Output t is output `stride` * t of stride 1: one convolution serves every squeeze factor.
    """

    def __init__(self, channels: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        weight = torch.empty(channels, channels // groups, kernel).normal_(std=math.sqrt(4 / (kernel * channels)))
        # On the meta device torch would import its compiler for the norm.
        gain = weight.new_empty(1, 1, kernel) if weight.is_meta else weight.norm(dim=(0, 1), keepdim=True)
        self.weight_g = nn.Parameter(gain)
        self.weight_v = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(channels))

    def effective_weight(self) -> Tensor:
        """The weight to compute with, (channels, channels / groups, kernel)."""
        return torch._weight_norm(self.weight_v, self.weight_g, 2)

    def forward(self, x: Tensor, stride: int = 1) -> Tensor:
        return grouped_convolution(x, self.effective_weight(), self.bias, stride, self.groups)


def grouped_convolution(x: Tensor, weight: Tensor, bias: Tensor, stride: int, groups: int) -> Tensor:
    """What `WeightNormConvolution` computes, with the weight (channels, channels / groups, kernel) worked out."""
    frames = (x.shape[1] + stride - 1) // stride
    x = F.conv1d(x.transpose(1, 2), weight, bias, stride, padding=weight.shape[2] // 2, groups=groups)
    return x[:, :, :frames].transpose(1, 2)


def split_groups(x: Tensor, groups: int, kernel: int) -> Tensor:
    """(batch, time, channels) -> (batch, groups, time + kernel - 1, channels / groups)

    The input of a convolution with "same" padding, each group in one piece of memory.
    """
    padded = F.pad(x, (0, 0, kernel // 2, (kernel - 1) // 2))
    return padded.unflatten(2, (groups, -1)).transpose(1, 2).contiguous()


def group_windows(frames: Tensor, kernel: int, stride: int) -> Tensor:
    """Of one group of `split_groups`: (time + kernel - 1, width) -> (frames, kernel * width), copied."""
    (windows,) = whole_windows(frames.unsqueeze(0), kernel, stride)
    # A copy always: a single window is contiguous whatever its stride is, and integer products misread that stride.
    return windows.clone(memory_format=torch.contiguous_format)
