"""int8 counterparts of the network's modules: weights with one scale an output channel, and integer products.

"Shrinking Bigfoot" (Peng et al. 2021, section 3) quantizes the Linear layers. Here the convolutions are products of
integers too: in channels-last layout their windows are rows of a view of their input, so that one product serves
both. docs/quantization.md has the measurements behind the choices.

Where the processor has no int8 units a module widens its own weight for each call and computes in floating point, so
that never more than one module's weight exists in floating point.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..nn.convolution import StridedConvolution, WeightNormConvolution, group_windows, split_groups, whole_windows
from ..nn.device import LARGEST_INT8, has_int8_units

TINY = torch.finfo(torch.float32).tiny  # keeps the scale of an all-zero row from being zero
ROWS_AT_ONCE = 1024  # bounds the memory of long inputs, and a piece stays in the cache


def quantize_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(out, ...) float -> int8 of the same shape and scales (out,), so that weight ~ int8 * scale."""
    scale = weight.flatten(1).abs().amax(1).clamp(min=TINY) / LARGEST_INT8
    return (weight / _over_channels(scale, weight)).round().to(torch.int8), scale


def dequantize_weight(weight: Tensor, scale: Tensor) -> Tensor:
    """The inverse of `quantize_weight`, in the precision of `scale`."""
    return weight.to(scale.dtype) * _over_channels(scale, weight)


def _over_channels(scale: Tensor, weight: Tensor) -> Tensor:
    return scale.view(-1, *[1] * (weight.dim() - 1))


def quantize_activations(x: Tensor, dims: tuple[int, ...] = (-1,)) -> tuple[Tensor, Tensor, Tensor]:
    """int8 of the same shape, and a scale and zero point for all that `dims` run over: x ~ (int8 - zero) * scale.

    From the smallest value to the largest, so that what GELU gives, hardly ever negative, uses all the steps; 0 is
    always one of them.
    """
    low, high = x.amin(dims, keepdim=True).clamp_(max=0), x.amax(dims, keepdim=True).clamp_(min=0)
    scale = (high - low).div_(253).clamp_(min=TINY)  # two steps are spare: the zero point and x are both rounded
    factor = scale.reciprocal()
    zero = (low * -factor).round_().sub_(127)
    # Plain passes in place: each is vectorized, which one addcmul with two broadcast operands is not.
    return (x * factor).add_(zero).round_().to(torch.int8), scale, zero


class Int8Module(nn.Module):
    """A weight in int8 with its scales, `NAME.weight` and `NAME.weight_scale`, and what a product needs of them."""

    matrix: Tensor
    sums: Tensor

    def __init__(self, weight: Tensor, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(
            torch.zeros(weight.shape, dtype=torch.int8, device=weight.device), requires_grad=False
        )
        self.weight_scale = nn.Parameter(weight.new_ones(len(weight)), requires_grad=False)
        self.bias = bias
        self._prepare()
        self.register_load_state_dict_post_hook(Int8Module._prepare)

    def _prepare(self, _incompatible: object = None) -> None:
        if self.weight.is_meta:
            return  # there is nothing yet, and torch would import its compiler for the sum
        matrix = self.as_matrix()
        self.register_buffer("matrix", matrix, persistent=False)
        # The zero point of an input adds zero * (sum of the weights) to each product.
        self.register_buffer("sums", matrix.sum(-1, dtype=torch.int32).to(self.weight_scale.dtype), persistent=False)

    def as_matrix(self) -> Tensor:
        """The weight as it is multiplied with, (out, in)."""
        return self.weight

    def wide_weight(self) -> Tensor:
        """The weight in floating point, in its own shape; for this call only."""
        return dequantize_weight(self.weight, self.weight_scale)

    @torch.no_grad()
    def products(self, rows: Tensor) -> Tensor:
        """(batch, rows, in) in any precision, rows that may overlap in memory -> (batch, rows, out) in the same

        Each row has its own scale and zero point: a loud frame costs a quiet one no precision, and a batch gives
        each utterance what it gets alone.
        """
        out = rows.new_empty(*rows.shape[:-1], len(self.matrix), dtype=torch.float32)
        for windows, outputs in zip(rows, out, strict=True):
            for part, place in zip(windows.split(ROWS_AT_ONCE), outputs.split(ROWS_AT_ONCE), strict=True):
                integers, scale, zero = quantize_activations(part.float())
                # Plain passes in place, as in `quantize_activations`: a temporary tensor costs more than a pass.
                place.copy_(torch._int_mm(integers, self.matrix.t())).mul_(scale).mul_(self.weight_scale)
                place.addr_((zero * scale).squeeze(1), self.sums * self.weight_scale, alpha=-1)
                if self.bias is not None:
                    place.add_(self.bias)
        return out.to(rows.dtype)


class Int8Linear(Int8Module):
    """`nn.Linear` with an int8 weight: (..., in) -> (..., out)"""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.weight, linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cpu and has_int8_units():
            return self.products(x.reshape(1, -1, x.shape[-1])).view(*x.shape[:-1], -1)
        return F.linear(x.float(), self.wide_weight(), self.bias).to(x.dtype)


class Int8Convolution(Int8Module):
    """`StridedConvolution` with an int8 weight: (batch, time, in) -> (batch, (time - kernel) // stride + 1, out)"""

    def __init__(self, convolution: StridedConvolution) -> None:
        self.kernel, self.stride = convolution.kernel, convolution.stride
        super().__init__(convolution.weight, convolution.bias)  # (out, in, kernel)

    def as_matrix(self) -> Tensor:
        return self.weight.transpose(1, 2).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cpu and has_int8_units():
            return self.products(whole_windows(x, self.kernel, self.stride))
        wide = F.conv1d(x.transpose(1, 2).float(), self.wide_weight(), self.bias, self.stride)
        return wide.transpose(1, 2).to(x.dtype)


class Int8PositionalConvolution(Int8Module):
    """`WeightNormConvolution` with an int8 weight, the norm worked in, and its shapes.

    A window of 128 frames overlaps the next in all but one, so the input is quantized once, with a scale for each
    utterance and group: frames that are zero, as padding is, do not change it.
    """

    def __init__(self, convolution: WeightNormConvolution) -> None:
        self.groups = convolution.groups
        super().__init__(convolution.weight_v, convolution.bias)  # (channels, channels / groups, kernel)

    def as_matrix(self) -> Tensor:
        """(groups, channels / groups, kernel * channels / groups)"""
        return self.weight.transpose(1, 2).flatten(1).unflatten(0, (self.groups, -1))

    def forward(self, x: Tensor, stride: int = 1) -> Tensor:
        _, width, kernel = self.weight.shape
        if not (x.is_cpu and has_int8_units()):
            padded = F.pad(x.transpose(1, 2).float(), (kernel // 2, (kernel - 1) // 2))
            wide = F.conv1d(padded, self.wide_weight(), self.bias, stride, groups=self.groups)
            return wide.transpose(1, 2).to(x.dtype)
        integers, scale, zero = quantize_activations(split_groups(x.float(), self.groups, kernel), (2, 3))
        out = x.new_empty(len(x), self.groups, -(-x.shape[1] // stride), width, dtype=torch.int32)
        for index, utterance in enumerate(integers):
            for group, frames in enumerate(utterance):
                windows = group_windows(frames, kernel, stride)
                torch._int_mm(windows, self.matrix[group].t(), out=out[index, group])
        product = (out - zero * self.sums.unsqueeze(1)).mul_(scale)
        wide = product.transpose(1, 2).flatten(2) * self.weight_scale
        return (wide if self.bias is None else wide + self.bias).to(x.dtype)


def int8_module(module: nn.Module) -> Int8Module | None:
    """The int8 counterpart of `module`, without values; None when it has none.

    The first convolution stays: its 10 numbers a channel are rescaled for each utterance by the group norm.
    """
    if isinstance(module, nn.Linear):
        return Int8Linear(module)
    if isinstance(module, WeightNormConvolution):
        return Int8PositionalConvolution(module)
    if isinstance(module, StridedConvolution) and module.weight.shape[1] > 1:
        return Int8Convolution(module)
    return None
