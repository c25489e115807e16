"""The network as a graph for other runtimes: one compression point, any batch and length, normalization inside."""

import json
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import __version__
from ..model_file.header import Header
from ..model_file.storage import ModelFile
from ..nn.compression import CompressionPoint
from ..nn.convolution import WeightNormConvolution, grouped_convolution, strided_windows
from ..nn.feature_extractor import ChannelNorm, ExtractorLayer
from ..nn.lengths import valid_mask

INPUTS = ("audio", "lengths")
OUTPUTS = ("logits", "frames")
BLOCK = 32


class ExtractorProducts(nn.Module):
    """`ExtractorLayer` with the matrices of its products worked out, one sequence of operations for every machine."""

    def __init__(self, layer: ExtractorLayer) -> None:
        super().__init__()
        convolution: Any = layer.get_submodule("0")
        self.kernel, self.stride = layer.kernel, layer.stride
        self.bias: Tensor | None = convolution.bias
        self.matrices = nn.ParameterList(
            nn.Parameter(matrix.contiguous(), requires_grad=False) for matrix in convolution.matrices()
        )
        self.norm: nn.Module = nn.Identity()
        if layer.norm != "none":
            self.norm = layer.get_submodule("2" if layer.norm == "group" else "2.1")

    def fold(self, x: Tensor, lengths: Tensor) -> Tensor | None:
        """In place of `ExtractorLayer.fold`: the normalized output of all frames (batch, frames, out), of which
        `lengths` (batch,) are valid.

        The moments are those of the output itself: to fold them takes fp64, which not every runtime has.
        """
        if not isinstance(self.norm, ChannelNorm):
            return None
        (windows,) = strided_windows(x, self.kernel, self.stride)
        frames = windows.shape[1]
        valid = in_blocks(valid_mask(lengths, frames).unsqueeze(-1).to(windows))
        count = lengths.view(-1, 1, 1).to(windows)
        out = F.linear(in_blocks(windows), self.matrices[0])
        centred = out - (sum_of_frames(out * valid) / count)[:, None, None]
        variance = sum_of_frames(centred.square() * valid) / count
        scale = (variance + self.norm.eps).rsqrt() * self.norm.weight
        return centred.flatten(1, 3)[:, :frames] * scale + self.norm.bias

    def forward(self, x: Tensor, normalized: Tensor | None) -> Tensor:
        """(batch, time, in), and what `fold` gave of it -> (batch, frames, out)"""
        if normalized is not None:
            return F.gelu(normalized)
        windows, matrices = list(strided_windows(x, self.kernel, self.stride)), list(self.matrices)
        out = F.linear(windows[0], matrices[0], self.bias)
        for window, matrix in zip(windows[1:], matrices[1:], strict=True):
            out = out + F.linear(window, matrix)
        return F.gelu(self.norm(out))


def in_blocks(x: Tensor) -> Tensor:
    """(batch, frames, channels) -> (batch, blocks, `BLOCK`, `BLOCK`, channels), with zeros after the last frame"""
    frames = x.shape[1]
    blocks = (frames + BLOCK**2 - 1) // BLOCK**2
    return F.pad(x, (0, 0, 0, blocks * BLOCK**2 - frames)).unflatten(1, (blocks, BLOCK, BLOCK))


def sum_of_frames(blocks: Tensor) -> Tensor:
    """What `in_blocks` gives -> (batch, 1, channels).

    Runtimes add up one number after the other, which over the 32,000 frames of ten seconds leaves ten times the error.
    The mean among the sums keeps OpenVINO from making one sum of the three.
    """
    return BLOCK * blocks.sum(3).mean(2).sum(1, keepdim=True)


class PositionalConvolution(nn.Module):
    """`WeightNormConvolution` with the norm worked into the weight, and its shapes."""

    def __init__(self, convolution: WeightNormConvolution) -> None:
        super().__init__()
        self.groups, self.bias = convolution.groups, convolution.bias
        self.weight = nn.Parameter(convolution.effective_weight(), requires_grad=False)

    def forward(self, x: Tensor, stride: int = 1) -> Tensor:
        return grouped_convolution(x, self.weight, self.bias, stride, self.groups)


class Graph(nn.Module):
    """Recorded audio (batch, samples) at 16 kHz and valid samples (batch,) int64 -> logits (batch, frames, units) and
    valid frames (batch,) int64, at one point.
    """

    def __init__(self, model: ModelFile, point: CompressionPoint) -> None:
        super().__init__()
        self.network = model.build()
        self.point, self.normalize = point, model.header.normalize
        for name, module in list(self.network.named_modules()):
            if isinstance(module, ExtractorLayer):
                self.network.set_submodule(name, ExtractorProducts(module))
            elif isinstance(module, WeightNormConvolution):
                self.network.set_submodule(name, PositionalConvolution(module))

    def forward(self, audio: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        if self.normalize:
            audio = masked_normalize(audio, lengths)
        return self.network(audio, lengths, self.point)

    def trace(self) -> torch.export.ExportedProgram:
        """The graph of all batches and lengths; a short batch stands for them."""
        architecture = self.network.architecture
        # Not a multiple of anything, and more than one block: a size of 1 would become a constant of the graph.
        _, _, first_stride = architecture.conv_layers[0]
        frames = max(49, -(-2 * BLOCK**2 * first_stride // architecture.samples_per_frame))
        samples = architecture.receptive_field + frames * architecture.samples_per_frame + 1
        example = torch.zeros(2, samples), torch.tensor([samples, samples - architecture.samples_per_frame])
        dynamic = torch.export.Dim.DYNAMIC
        sizes = {"audio": {0: dynamic, 1: dynamic}, "lengths": {0: dynamic}}
        return torch.export.export(self.eval(), example, dynamic_shapes=sizes)


def masked_normalize(audio: Tensor, lengths: Tensor) -> Tensor:
    """`data.audio.normalize` of each row's valid samples; the rest becomes 0. (batch, samples), (batch,)"""
    valid = valid_mask(lengths, audio.shape[1])
    count = lengths.unsqueeze(1).to(audio)
    centred = (audio - (audio * valid).sum(1, keepdim=True) / count) * valid
    return centred * (centred.square().sum(1, keepdim=True) / count + 1e-5).rsqrt()


def description(header: Header, point: CompressionPoint) -> dict[str, str]:
    """What to know to use the graph, as the metadata of the exported file has it; docs/export.md."""
    return {
        "w2v_compress": __version__,
        "units": json.dumps(header.units.symbols, ensure_ascii=False),
        "unit_kind": header.units.kind,
        "blank": "0",
        "point": str(point),
        "sample_rate": str(header.sample_rate),
        "samples_per_frame": str(header.architecture.samples_per_frame),
        "shortest_samples": str(header.architecture.receptive_field),
    }
