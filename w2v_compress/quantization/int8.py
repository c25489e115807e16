"""int8 counterparts of the network's modules, with one weight scale per output channel and integer matrix products.

"Shrinking Bigfoot" (Peng et al. 2021, section 3) quantizes the linear layers. Here the convolutions use integer
products too: in channels-last layout their windows are rows of a view of their input, so linear layers and convolutions
share one product. docs/quantization.md has the measurements behind these choices.

On CPUs without int8 units, a module dequantizes its weight for each call and computes in floating point. At most one
module's weight exists in floating point at a time.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..nn.convolution import StridedConvolution, WeightNormConvolution, group_windows, overlapping_windows, split_groups
from ..nn.device import INT8_MAX, has_int8_units

MIN_SCALE = torch.finfo(torch.float32).tiny
"""Smallest scale; keeps the scale of an all-zero row above 0."""
CHUNK_ROWS = 1024
"""Rows multiplied at once; bounds the memory for long inputs, and a chunk fits into the CPU's cache."""


def quantize_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize `weight` `(out, ...)` to int8 of the same shape and scales `(out,)`, with weight ~ int8 * scale."""
    scale = weight.flatten(1).abs().amax(1).clamp(min=MIN_SCALE) / INT8_MAX
    return (weight / _broadcast_scale(scale, weight)).round().to(torch.int8), scale


def dequantize_weight(weight: Tensor, scale: Tensor, input_scale: Tensor | None = None) -> Tensor:
    """Return int8 `weight` `(out, in, ...)` times `scale` `(out,)`, in the precision of `scale`.

    A calibrated weight is also divided by the `input_scale` `(in,)` that it was multiplied by.
    """
    floating = weight.to(scale.dtype) * _broadcast_scale(scale, weight)
    return floating if input_scale is None else scale_columns(floating, 1 / input_scale)


def scale_columns(weight: Tensor, factors: Tensor) -> Tensor:
    """Multiply a weight `(out, in, ...)` by a factor for each input channel, `(in,)`."""
    return weight * _broadcast_scale(factors, weight[0])


def _broadcast_scale(scale: Tensor, weight: Tensor) -> Tensor:
    """Reshape `scale` `(out,)` so that it broadcasts over `weight` `(out, ...)`."""
    return scale.view(-1, *[1] * (weight.dim() - 1))


def quantize_activations(x: Tensor, dims: tuple[int, ...] = (-1,)) -> tuple[Tensor, Tensor, Tensor]:
    """Quantize `x` to int8 of the same shape, with a scale and a zero point shared along `dims`.

    The values are x ~ (int8 - zero) * scale. The range is that of the values, so that the output of GELU, which is
    rarely negative, uses all steps; 0 is represented exactly. Returns int8, scale and zero point, both with size 1
    along `dims`.
    """
    low, high = x.amin(dims, keepdim=True).clamp_(max=0), x.amax(dims, keepdim=True).clamp_(min=0)
    scale = (high - low).div_(253).clamp_(min=MIN_SCALE)  # two spare steps: both the zero point and x are rounded
    factor = scale.reciprocal()
    zero = (low * -factor).round_().sub_(127)
    # In-place element-wise passes, which are vectorized; one addcmul with two broadcast operands is not.
    return (x * factor).add_(zero).round_().to(torch.int8), scale, zero


class Int8Module(nn.Module):
    """Base class of int8 modules: `weight` in int8, `weight_scale` `(out,)` and an optional floating-point `bias`.

    A new module has zero weights; loading a state dict also updates the buffers derived from the weight.
    """

    matrix: Tensor
    """The weight as multiplied, see `as_matrix`."""
    weight_sums: Tensor
    """Sum of each row of `matrix`: the zero point of an input adds zero * sum to each product."""

    input_scale: nn.Parameter | None
    """Calibrated scale of each input channel, `(in,)`: the weight is that of the input divided by these."""
    input_zero: nn.Parameter | None
    """Calibrated zero point of the input, a whole number."""

    def __init__(self, weight: Tensor, bias: nn.Parameter | None, *, calibrated: bool = False) -> None:
        super().__init__()
        for name, value in (("input_scale", weight.new_ones(weight.shape[1])), ("input_zero", weight.new_zeros(()))):
            self.register_parameter(name, nn.Parameter(value, requires_grad=False) if calibrated else None)
        self.weight = nn.Parameter(
            torch.zeros(weight.shape, dtype=torch.int8, device=weight.device), requires_grad=False
        )
        self.weight_scale = nn.Parameter(weight.new_ones(len(weight)), requires_grad=False)
        self.bias = bias
        self._update_buffers()
        # torch does not type this method.
        self.register_load_state_dict_post_hook(Int8Module._update_buffers)  # type: ignore[no-untyped-call]

    def _update_buffers(self, _incompatible_keys: object = None) -> None:
        """Compute `matrix` and `weight_sums` from the weight; a post-hook of `load_state_dict`."""
        if self.weight.is_meta:
            return  # no values yet, and torch would import its compiler for the sum
        matrix = self.as_matrix()
        sums = matrix.sum(-1, dtype=torch.int32).to(self.weight_scale.dtype)
        self.register_buffer("matrix", matrix, persistent=False)
        self.register_buffer("weight_sums", sums, persistent=False)

    def as_matrix(self) -> Tensor:
        """Return the int8 weight as multiplied, `(out, in)`."""
        return self.weight

    def dequantized_weight(self) -> Tensor:
        """Return the weight in floating point, in the shape of `weight`."""
        return dequantize_weight(self.weight, self.weight_scale, self.input_scale)

    def _quantize_input(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantize `rows` `(rows, in)` with the calibrated scales, or with a scale and a zero point for each row.

        Returns int8, scale and zero point; with calibrated scales, `matrix` includes the scale of each input channel.
        """
        if self.input_scale is None or self.input_zero is None:
            return quantize_activations(rows)
        columns = self.input_scale.repeat(rows.shape[1] // len(self.input_scale))
        integers = (rows / columns).add_(self.input_zero).round_().clamp_(-128, INT8_MAX).to(torch.int8)
        one = rows.new_ones(1, 1)
        return integers, one, self.input_zero * one

    @torch.no_grad()
    def matmul(self, rows: Tensor) -> Tensor:
        """Multiply `rows` `(batch, rows, in)` by the int8 weight, and add the bias: -> `(batch, rows, out)`.

        The result has the precision of `rows`, which may overlap in memory. Without calibration each row has its own
        scale and zero point: a loud frame costs a quiet one no precision. In both cases an utterance has the same
        result in a batch as alone.
        """
        out = rows.new_empty(*rows.shape[:-1], len(self.matrix), dtype=torch.float32)
        for windows, outputs in zip(rows, out, strict=True):
            for chunk, place in zip(windows.split(CHUNK_ROWS), outputs.split(CHUNK_ROWS), strict=True):
                integers, scale, zero = self._quantize_input(chunk.float())
                # In-place passes, as in `quantize_activations`: a temporary tensor costs more than a pass.
                place.copy_(torch._int_mm(integers, self.matrix.t())).mul_(scale).mul_(self.weight_scale)
                offset = (zero * scale).expand(len(chunk), 1).squeeze(1)
                place.addr_(offset, self.weight_sums * self.weight_scale, alpha=-1)
                if self.bias is not None:
                    place.add_(self.bias)
        return out.to(rows.dtype)


class Int8Linear(Int8Module):
    """`nn.Linear` with an int8 weight, `(..., in)` -> `(..., out)`."""

    def __init__(self, linear: nn.Linear, *, calibrated: bool = False) -> None:
        super().__init__(linear.weight, linear.bias, calibrated=calibrated)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to `x` `(..., in)`; the output has the precision of `x`."""
        if x.is_cpu and has_int8_units():
            return self.matmul(x.reshape(1, -1, x.shape[-1])).view(*x.shape[:-1], -1)
        return F.linear(x.float(), self.dequantized_weight(), self.bias).to(x.dtype)


class Int8Convolution(Int8Module):
    """`StridedConvolution` with an int8 weight; same input and output shapes."""

    def __init__(self, convolution: StridedConvolution, *, calibrated: bool = False) -> None:
        self.kernel, self.stride = convolution.kernel, convolution.stride
        super().__init__(convolution.weight, convolution.bias, calibrated=calibrated)  # (out, in, kernel)

    def as_matrix(self) -> Tensor:
        """Return the int8 weight as multiplied, `(out, kernel * in)`."""
        return self.weight.transpose(1, 2).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve `x` `(batch, time, in)`; the output has the precision of `x`."""
        if x.is_cpu and has_int8_units():
            return self.matmul(overlapping_windows(x, self.kernel, self.stride))
        out = F.conv1d(x.transpose(1, 2).float(), self.dequantized_weight(), self.bias, self.stride)
        return out.transpose(1, 2).to(x.dtype)


class Int8PositionalConvolution(Int8Module):
    """`WeightNormConvolution` with an int8 weight, which is the normalized weight; same input and output shapes.

    Windows of 128 frames overlap in all but `stride` frames, so the input is quantized once, with one scale for each
    utterance and group. Frames of zeros, such as padding, do not change that scale.
    """

    def __init__(self, convolution: WeightNormConvolution) -> None:
        self.groups = convolution.groups
        super().__init__(convolution.weight_v, convolution.bias)  # (channels, channels / groups, kernel)

    def as_matrix(self) -> Tensor:
        """Return the int8 weight as multiplied, `(groups, channels / groups, kernel * channels / groups)`."""
        matrix: Tensor = self.weight.transpose(1, 2).flatten(1).unflatten(0, (self.groups, -1))
        return matrix

    def forward(self, x: Tensor, stride: int = 1) -> Tensor:
        """Convolve `x` `(batch, time, channels)` and return every `stride`-th frame, in the precision of `x`."""
        _, width, kernel = self.weight.shape
        if not (x.is_cpu and has_int8_units()):
            padded = F.pad(x.transpose(1, 2).float(), (kernel // 2, (kernel - 1) // 2))
            out = F.conv1d(padded, self.dequantized_weight(), self.bias, stride, groups=self.groups)
            return out.transpose(1, 2).to(x.dtype)
        integers, scale, zero = quantize_activations(split_groups(x.float(), self.groups, kernel), (2, 3))
        products = x.new_empty(len(x), self.groups, -(-x.shape[1] // stride), width, dtype=torch.int32)
        for index, utterance in enumerate(integers):
            for group, frames in enumerate(utterance):
                windows = group_windows(frames, kernel, stride)
                torch._int_mm(windows, self.matrix[group].t(), out=products[index, group])
        scaled = (products - zero * self.weight_sums.unsqueeze(1)).mul_(scale)
        out = scaled.transpose(1, 2).flatten(2) * self.weight_scale
        return (out if self.bias is None else out + self.bias).to(x.dtype)


def int8_module(module: nn.Module, *, calibrated: bool = False) -> Int8Module:
    """Create the int8 counterpart of a linear layer or convolution, with its bias and zero weights.

    With `calibrated` it has scales for its input, except the positional convolution.
    """
    if isinstance(module, nn.Linear):
        return Int8Linear(module, calibrated=calibrated)
    if isinstance(module, WeightNormConvolution):
        return Int8PositionalConvolution(module)
    assert isinstance(module, StridedConvolution)
    return Int8Convolution(module, calibrated=calibrated)
