"""The feature extractor: the convolutions of wav2vec 2.0 (Baevski et al. 2020, section 2) as matrix products.

In channels-last layout a strided convolution is a product with a view of its input: kernel 2 with stride 2 reads
`(batch, time, channels)` as `(batch, time / 2, 2 * channels)`. A kernel longer than its stride needs one more product
for each further `stride` taps. Matrix products are fast in every precision.
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
"""Frames in the statistics of the group norm: `valid` excludes padding, `padded` includes it, as stock fairseq does."""
CHUNK_FRAMES = 64
"""Output frames computed at once in CPU inference: 8 MB of fp32 activations after the first layer."""
FoldedNorm = tuple[Tensor, Tensor]
"""Factor `(batch, 2 * kernel, channels)` and offset `(batch, 1, channels)`: see `ChannelNorm.fold`."""


class ChannelNorm(nn.Module):
    """Group norm with one group per channel, folded into the convolution before it.

    The mean and variance of a channel over time are `w . mu` and `w' C w`, where mu and C are the mean and covariance
    of the convolution's input windows. So the normalized output is one product with scaled weights, without a reduction
    over the long activations. With `lengths` the moments are those of each utterance's valid windows, so the result is
    independent of padding (stock fairseq includes padding).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = 1e-5

    def fold(self, windows: Tensor, matrix: Tensor, lengths: Tensor | None) -> FoldedNorm:
        """Fold the norm into the convolution with weight `matrix` `(channels, kernel)`, for `normalize`.

        The statistics are those of `windows` `(batch, frames, kernel)`: of the first `lengths` `(batch,)`, or of all if
        None. The bias of the convolution, if any, cancels with the mean.

        The moments are computed in fp64, under autocast too: a component that is loud in the windows and absent from a
        channel, such as a hum under a high-pass filter, cancels in `w' C w`. The factor is stored as its rounded value
        and the rounding error, because the rounding error alone would let such a component through again.
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
    def normalize(windows: Tensor, folded: FoldedNorm) -> Tensor:
        """Convolve and normalize all or some `windows` `(batch, frames, kernel)` -> `(batch, frames, channels)`.

        `folded` is the result of `fold` for all windows.
        """
        factor, offset = folded
        return torch.baddbmm(offset, torch.cat([windows, windows], 2), factor)


class ExtractorLayer(nn.Module):
    """Convolution, norm (group, layer or none) and GELU, `(batch, time, in)` -> `(batch, frames, out)`.

    The submodules have the names of fairseq's `Sequential`: 0 is the convolution, 2 the group norm, 2.1 the layer norm.
    """

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

    def fold(self, x: Tensor, lengths: Tensor | None) -> FoldedNorm | None:
        """Fold the group norm for the input `x` `(batch, time, in)`; return None if the layer has no group norm.

        The statistics are those of the first `lengths` `(batch,)` output frames, or of all if None.
        """
        if self.norm != "group":
            return None
        convolution, norm = self.get_submodule("0"), self.get_submodule("2")
        assert isinstance(convolution, StridedConvolution)
        assert isinstance(norm, ChannelNorm)
        (windows,), (matrix,) = strided_windows(x, self.kernel, self.stride), convolution.matrices()
        return norm.fold(windows, matrix, lengths)

    def forward(self, x: Tensor, folded: FoldedNorm | None) -> Tensor:
        """Apply the layer to `x` `(batch, time, in)`, all or part of the input for which `fold` returned `folded`."""
        if folded is not None:
            (windows,) = strided_windows(x, self.kernel, self.stride)
            return self.activation(ChannelNorm.normalize(windows, folded))
        x = self.get_submodule("0")(x)
        if self.norm == "layer":
            x = self.get_submodule("2.1")(x)
        return self.activation(x)


class FeatureExtractor(nn.Module):
    """Compute features `(batch, frames, channels)` from waveforms `(batch, samples)`; see `Architecture.frames`.

    `group_norm_statistics` selects the samples in the statistics of the group norm. "valid": those of each utterance,
    so that an utterance has the same features in a batch as alone. "padded": the padded row, to reproduce the numbers
    of stock fairseq. They differ only for `extractor_mode` "default" and batches of mixed lengths.
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
        """Extract features of `audio` `(batch, samples)` with `lengths` `(batch,)` valid samples, or None for all.

        On the CPU without gradients, the features are computed in chunks of `CHUNK_FRAMES` frames of one utterance, so
        that the activations between the layers stay in the CPU's cache.
        """
        if lengths is not None and self.group_norm_statistics == "valid":
            first_frames = (lengths - self.first_kernel) // self.first_stride + 1
        else:
            first_frames = None
        x = audio.unsqueeze(-1)
        layers = cast(list[ExtractorLayer], list(self.conv_layers))
        folded = layers[0].fold(x, first_frames)
        if torch.is_grad_enabled() or x.device.type != "cpu":
            for layer in layers:
                x, folded = layer(x, folded), None
            return x
        frames = self.frames(audio.shape[1])
        out = None
        for index, utterance in enumerate(x.split(1)):
            row = None if folded is None else (folded[0][index : index + 1], folded[1][index : index + 1])
            for start in range(0, frames, CHUNK_FRAMES):
                end = min(start + CHUNK_FRAMES, frames)
                chunk = _output_frames(layers, start, end, utterance, row)
                if out is None:
                    out = chunk.new_empty(len(x), frames, chunk.shape[2])
                out[index, start:end] = chunk
        assert out is not None
        return out


def _output_frames(layers: list[ExtractorLayer], start: int, end: int, x: Tensor, folded: FoldedNorm | None) -> Tensor:
    """Compute the output frames [start, end) of `layers` for the input `x` `(batch, time, in)` of the first one."""
    if not layers:
        return x[:, start:end]
    *lower, layer = layers
    below = _output_frames(lower, start * layer.stride, (end - 1) * layer.stride + layer.kernel, x, folded)
    out: Tensor = layer(below, None if lower else folded)
    return out
