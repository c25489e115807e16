"""The network as a graph for other runtimes: one compression point, any batch and length, normalization inside."""

import json
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import __version__
from ..model_file.header import Header
from ..model_file.storage import ModelFile
from ..nn.compression import CompressionPoint
from ..nn.convolution import (
    FoldedPositionalConvolution,
    StridedConvolution,
    WeightNormConvolution,
    strided_windows,
)
from ..nn.feature_extractor import ChannelNorm, ExtractorLayer
from ..nn.lengths import valid_mask
from ..nn.modules import replace_modules
from ..quantization.int8 import Int8Convolution, Int8Linear, Int8PositionalConvolution
from .quantized_product import quantized_linear, quantized_taps

INPUTS = ("audio", "lengths")
OUTPUTS = ("logits", "frames")
BLOCK = 32


class ExportedExtractorLayer(nn.Module):
    """`ExtractorLayer` with its matrices computed in advance and the same sequence of operations on every machine."""

    def __init__(self, layer: ExtractorLayer) -> None:
        super().__init__()
        convolution: Any = layer.get_submodule("0")
        self.kernel, self.stride = layer.kernel, layer.stride
        self.products = nn.ModuleList(
            quantized_taps(convolution) if isinstance(convolution, Int8Convolution) else _floating_taps(convolution)
        )
        self.norm: nn.Module = nn.Identity()
        if layer.norm != "none":
            self.norm = layer.get_submodule("2" if layer.norm == "group" else "2.1")

    def fold(self, x: Tensor, lengths: Tensor) -> Tensor | None:
        """Return the group-normalized output `(batch, frames, out)`, or None for a layer without a group norm.

        Takes `x` `(batch, time, in)` and the valid frames `lengths` `(batch,)`. Replaces `ExtractorLayer.fold`, which
        folds the norm into the convolution: that needs moments in fp64, which not every runtime has. The moments here
        are those of the output itself.
        """
        if not isinstance(self.norm, ChannelNorm):
            return None
        (windows,) = strided_windows(x, self.kernel, self.stride)
        frames = windows.shape[1]
        valid = split_blocks(valid_mask(lengths, frames).unsqueeze(-1).to(windows))
        count = lengths.view(-1, 1, 1).to(windows)
        out = F.linear(split_blocks(windows), cast(nn.Linear, self.products[0]).weight)
        centred = out - (sum_blocks(out * valid) / count)[:, None, None]
        variance = sum_blocks(centred.square() * valid) / count
        scale = (variance + self.norm.eps).rsqrt() * self.norm.weight
        return centred.flatten(1, 3)[:, :frames] * scale + self.norm.bias

    def forward(self, x: Tensor, normalized: Tensor | None) -> Tensor:
        """Map `x` `(batch, time, in)`, and the result of `fold` for it, to `(batch, frames, out)`."""
        if normalized is not None:
            return F.gelu(normalized)
        windows = list(strided_windows(x, self.kernel, self.stride))
        out = self.products[0](windows[0])
        for window, product in zip(windows[1:], list(self.products)[1:], strict=True):
            out = out + product(window)
        return F.gelu(self.norm(out))


def _floating_taps(convolution: StridedConvolution) -> list[nn.Linear]:
    """Return the products of a convolution with the operands of `strided_windows`, in their order."""
    linears = []
    for index, matrix in enumerate(convolution.matrices()):
        bias = convolution.bias if index == 0 else None
        linear = nn.Linear(matrix.shape[1], matrix.shape[0], bias=bias is not None, device="meta")
        state = {"weight": matrix.contiguous()} | ({} if bias is None else {"bias": bias})
        linear.load_state_dict(state, assign=True)
        linears.append(linear.requires_grad_(False))
    return linears


def split_blocks(x: Tensor) -> Tensor:
    """Split `(batch, frames, channels)` to `(batch, blocks, BLOCK, BLOCK, channels)`, padded with zero frames."""
    frames = x.shape[1]
    blocks = (frames + BLOCK**2 - 1) // BLOCK**2
    return F.pad(x, (0, 0, 0, blocks * BLOCK**2 - frames)).unflatten(1, (blocks, BLOCK, BLOCK))


def sum_blocks(blocks: Tensor) -> Tensor:
    """Sum the result of `split_blocks` over all frames, to `(batch, 1, channels)`.

    Runtimes accumulate a sum one number at a time. Over the 32,000 frames of ten seconds that gives ten times the
    rounding error of a sum in blocks. The mean between the two sums prevents OpenVINO from merging the three into one.
    """
    return BLOCK * blocks.sum(3).mean(2).sum(1, keepdim=True)


class ExportGraph(nn.Module):
    """The network of a model file at one compression point, in the operations that exporters support.

    The products of a calibrated int8 model are those of `quantized_product`, but for the positional convolution and the
    products of attention, which are in floating point.

    Maps audio `(batch, samples)` at 16 kHz, not normalized, and valid samples `(batch,)` int64 to logits
    `(batch, frames, units)` and valid frames `(batch,)` int64.
    """

    def __init__(self, model: ModelFile, point: CompressionPoint) -> None:
        super().__init__()
        self.network = model.build()
        self.point, self.normalize = point, model.header.normalize
        replace_modules(self.network, _exported_module)

    def forward(self, audio: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Run the network on audio `(batch, samples)` with `lengths` `(batch,)` valid samples."""
        if self.normalize:
            audio = masked_normalize(audio, lengths)
        return self.network(audio, lengths, self.point)

    def trace(self) -> torch.export.ExportedProgram:
        """Trace the graph for any batch size and length, on a short example batch."""
        architecture = self.network.architecture
        # Longer than one block, and not a multiple of any stride: a size of 1 would become a constant of the graph.
        _, _, first_stride = architecture.conv_layers[0]
        frames = max(49, -(-2 * BLOCK**2 * first_stride // architecture.samples_per_frame))
        samples = architecture.receptive_field + frames * architecture.samples_per_frame + 1
        example = torch.zeros(2, samples), torch.tensor([samples, samples - architecture.samples_per_frame])
        dynamic = torch.export.Dim.DYNAMIC
        sizes = {"audio": {0: dynamic, 1: dynamic}, "lengths": {0: dynamic}}
        return torch.export.export(self.eval(), example, dynamic_shapes=sizes)


def _exported_module(name: str, module: nn.Module) -> nn.Module | None:
    """Return the module of an `ExportGraph` in place of `module`, or None if it stays."""
    if isinstance(module, ExtractorLayer):
        return ExportedExtractorLayer(module)
    if isinstance(module, WeightNormConvolution):
        return FoldedPositionalConvolution(module.effective_weight(), module.bias, module.groups)
    if isinstance(module, Int8PositionalConvolution):
        assert module.bias is not None
        return FoldedPositionalConvolution(module.dequantized_weight(), module.bias, module.groups)
    if isinstance(module, Int8Linear):
        return quantized_linear(module)
    return None


def masked_normalize(audio: Tensor, lengths: Tensor) -> Tensor:
    """Apply `data.normalization.normalize` to the valid samples of each row and set the rest to 0.

    audio: `(batch, samples)`; lengths: `(batch,)`.
    """
    valid = valid_mask(lengths, audio.shape[1])
    count = lengths.unsqueeze(1).to(audio)
    centred = (audio - (audio * valid).sum(1, keepdim=True) / count) * valid
    return centred * (centred.square().sum(1, keepdim=True) / count + 1e-5).rsqrt()


def graph_metadata(header: Header, point: CompressionPoint) -> dict[str, str]:
    """Return the metadata of an exported file, with all that is needed to use the graph; see docs/export.md."""
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
