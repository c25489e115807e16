"""Waveform to features: the convolutions of wav2vec 2.0 (Baevski et al. 2020, section 2), as matrix products.

In channels-last layout a strided convolution is a product over a view of its input: kernel 2 with stride 2 reads
`(batch, time, channels)` as `(batch, time / 2, 2 * channels)`. A kernel longer than its stride adds one product for
each further stride's worth of taps. Every multiply is then a matrix product, which is fast in every precision.
"""

from collections.abc import Callable
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .architecture import Architecture
from .convolution import StridedConvolution, strided_windows
from .lengths import valid_mask

GroupNormStatistics = Literal["valid", "padded"]
FRAMES_AT_ONCE = 64  # of the output, whose 4,096 frames of the first layer in fp32 are 8 MB


class ChannelNorm(nn.Module):
    """Group norm with one group a channel, folded into the convolution before it.

    A channel's mean and variance over time are `w . mu` and `w' C w`, where mu and C are mean and covariance of the
    convolution's input windows. So the normalized output is one product with scaled weights, and the long
    activations are never reduced. With `lengths` the moments are those of each utterance's valid windows, which
    makes the result independent of padding (stock fairseq takes them over the padding too).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = 1e-5

    def fold(self, windows: Tensor, matrix: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """Factor (batch, 2 * kernel, channels) and offset (batch, 1, channels) for `normalize`.

        windows: (batch, frames, kernel), of which `lengths` (batch,) count, or all; matrix: (channels, kernel). The
        convolution's own bias, if any, goes away with the mean.

        The moments are in fp64, under autocast too: what is loud in the windows and not in a channel, as a hum under a
        high-pass filter, cancels in `w' C w`. The factor is in two parts, what rounding it leaves and what it takes,
        because its rounding errors would let that through again.
        """
        exact, matrix = windows.double(), matrix.double()
        if lengths is None:
            mean = exact.mean(1, keepdim=True)
            centred = exact - mean
            count = exact.new_tensor(exact.shape[1]).view(1, 1, 1)
        else:
            valid = valid_mask(lengths, exact.shape[1]).unsqueeze(-1)
            count = lengths.clamp(min=1).view(-1, 1, 1).to(exact)
            mean = (exact * valid).sum(1, keepdim=True) / count
            centred = (exact - mean) * valid
        covariance = centred.transpose(1, 2) @ centred / count  # (batch, kernel, kernel)
        variance = ((matrix @ covariance) * matrix).sum(-1).clamp(min=0)  # (batch, channels)
        scale = self.weight.double() * (variance + self.eps).rsqrt()
        exact_factor = (scale.unsqueeze(-1) * matrix).transpose(1, 2)
        rounded = exact_factor.to(windows.dtype)
        factor = torch.cat([rounded, (exact_factor - rounded).to(windows.dtype)], 1)
        return factor, (self.bias.double() - mean @ exact_factor).to(windows.dtype)

    @staticmethod
    def normalize(windows: Tensor, folded: tuple[Tensor, Tensor]) -> Tensor:
        """Windows (batch, frames, kernel), or some of them, and what `fold` gave of all -> (batch, frames, channels)"""
        factor, offset = folded
        return torch.baddbmm(offset, torch.cat([windows, windows], 2), factor)


class ExtractorLayer(nn.Module):
    """Convolution, norm (group, layer or none) and GELU, under the numbers of fairseq's Sequential: 0, 2 and 2.1."""

    def __init__(self, convolution: StridedConvolution, norm: Literal["group", "layer", "none"]) -> None:
        super().__init__()
        channels = convolution.weight.shape[0]
        self.add_module("0", convolution)
        if norm == "group":
            self.add_module("2", ChannelNorm(channels))
        elif norm == "layer":
            self.add_module("2", nn.ModuleDict({"1": nn.LayerNorm(channels)}))
        self.norm = norm
        self.activation: Callable[[Tensor], Tensor] = F.gelu
        self.kernel, self.stride = convolution.kernel, convolution.stride

    def fold(self, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor] | None:
        """What `forward` needs to know of all frames, of which `lengths` (batch,) count, or all; None for nothing."""
        if self.norm != "group":
            return None
        convolution, norm = self.get_submodule("0"), self.get_submodule("2")
        assert isinstance(convolution, StridedConvolution)
        assert isinstance(norm, ChannelNorm)
        (windows,), (matrix,) = strided_windows(x, self.kernel, self.stride), convolution.matrices()
        return norm.fold(windows, matrix, lengths)

    def forward(self, x: Tensor, folded: tuple[Tensor, Tensor] | None) -> Tensor:
        """(batch, time, in), which may be a part, and what `fold` gave of the whole -> (batch, frames, out)"""
        if folded is not None:
            (windows,) = strided_windows(x, self.kernel, self.stride)
            return self.activation(ChannelNorm.normalize(windows, folded))
        x = self.get_submodule("0")(x)
        if self.norm == "layer":
            x = self.get_submodule("2.1")(x)
        return self.activation(x)


class FeatureExtractor(nn.Module):
    """(batch, samples) waveforms -> (batch, frames, channels); see `Architecture.frames` for the lengths.

    `group_norm_statistics`: "valid" takes the group norm's statistics over each utterance's own samples, so that a
    batch gives each utterance what it gets alone; "padded" over the whole padded row, as stock fairseq does, to
    reproduce its numbers. It matters only for `extractor_mode` "default" and batches of mixed lengths.
    """

    def __init__(self, architecture: Architecture, group_norm_statistics: GroupNormStatistics = "valid") -> None:
        super().__init__()
        self.group_norm_statistics = group_norm_statistics
        layers, in_channels = [], 1
        for index, (channels, kernel, stride) in enumerate(architecture.conv_layers):
            convolution = StridedConvolution(in_channels, channels, kernel, stride, architecture.conv_bias)
            if architecture.extractor_mode == "layer_norm":
                layers.append(ExtractorLayer(convolution, "layer"))
            else:
                layers.append(ExtractorLayer(convolution, "group" if index == 0 else "none"))
            in_channels = channels
        self.conv_layers = nn.ModuleList(layers)
        self.first_kernel, self.first_stride = architecture.conv_layers[0][1:]
        self.frames = architecture.frames

    def forward(self, audio: Tensor, lengths: Tensor | None) -> Tensor:
        if lengths is not None and self.group_norm_statistics == "valid":
            counted = (lengths - self.first_kernel) // self.first_stride + 1
        else:
            counted = None
        x = audio.unsqueeze(-1)
        layers = cast(list[ExtractorLayer], list(self.conv_layers))
        folded = layers[0].fold(x, counted)
        if torch.is_grad_enabled() or x.device.type != "cpu":
            for layer in layers:
                x, folded = layer(x, folded), None
            return x
        frames = self.frames(audio.shape[1])
        # So few frames of one utterance at a time that what lies between the layers stays in the processor's cache.
        out = None
        for index, utterance in enumerate(x.split(1)):
            own = None if folded is None else (folded[0][index : index + 1], folded[1][index : index + 1])
            for start in range(0, frames, FRAMES_AT_ONCE):
                end = min(start + FRAMES_AT_ONCE, frames)
                piece = _frames(layers, start, end, utterance, own)
                if out is None:
                    out = piece.new_empty(len(x), frames, piece.shape[2])
                out[index, start:end] = piece
        assert out is not None
        return out


def _frames(
    layers: list[ExtractorLayer], start: int, end: int, x: Tensor, folded: tuple[Tensor, Tensor] | None
) -> Tensor:
    """Frames [start, end) of what these layers give for x."""
    if not layers:
        return x[:, start:end]
    *lower, layer = layers
    below = _frames(lower, start * layer.stride, (end - 1) * layer.stride + layer.kernel, x, folded)
    return layer(below, None if lower else folded)
