"""Calibration: fixed int8 scales for activations, from the ranges seen on real audio at every compression point.

A linear layer or convolution gets one scale for each input channel and one zero point. The scales balance outlying
channels between activation and weight, as SmoothQuant does (Xiao et al. 2023, section 4): channel c of the input is
divided, and column c of the weight multiplied, by max|x_c|^a / max|w_c|^(1 - a).
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..nn.acoustic_model import AcousticModel
from ..nn.device import INT8_MAX
from .parts import ATTENTION_OPERANDS, is_attention

SMOOTHING = 0.65
"""The exponent a: 0 leaves all outliers to the activations, 1 all to the weights. From 0.5 to 0.75 the error was
measured to differ little, on random and on trained weights."""
SMALLEST = 1e-5
"""Smallest range of a channel; keeps the scale of a silent channel above 0."""
STEPS = 255


class InputScales(NamedTuple):
    """Quantization of the input x of a module: x ~ (int8 - zero) * scale."""

    scale: Tensor
    """`(channels,)`"""
    zero: Tensor
    """A whole number from -128 to 127, `()`."""


@dataclass
class Range:
    """Smallest and largest value of each channel seen so far, both `(channels,)`."""

    low: Tensor
    high: Tensor

    def include(self, other: "Range") -> None:
        """Widen the range to include `other`."""
        self.low, self.high = torch.minimum(self.low, other.low), torch.maximum(self.high, other.high)


@dataclass
class Calibration:
    """Ranges of the inputs of modules."""

    smoothing: float = SMOOTHING
    source: dict[str, Any] = field(default_factory=dict)
    """What they were recorded on, for the header of a quantized file."""
    inputs: dict[str, Range] = field(default_factory=dict)
    """By the name of the module; those of attention by the name and operand, such as `....products.query`."""

    def describe(self) -> dict[str, Any]:
        """Return the field `calibration` of a quantized file's header."""
        return {"smoothing": self.smoothing, **self.source}

    def input_scales(self, name: str, weight: Callable[[str], Tensor]) -> InputScales:
        """Return the quantization of the input of module `name`, a linear layer or convolution.

        `weight` returns the floating-point weight `(out, in, ...)` of a module. The projections of an attention layer
        have the same scales, so that engines quantize their common input once.
        """
        siblings = _siblings(name)
        seen = Range(self.inputs[siblings[0]].low, self.inputs[siblings[0]].high)
        for sibling in siblings[1:]:
            seen.include(self.inputs[sibling])
        largest = torch.maximum(seen.low.abs(), seen.high.abs()).clamp(min=SMALLEST)
        columns = torch.stack([weight(each).detach().abs().transpose(0, 1).flatten(1).amax(1) for each in siblings])
        smooth = largest**self.smoothing / columns.amax(0).clamp(min=SMALLEST) ** (1 - self.smoothing)
        low, high = (seen.low / smooth).amin().clamp(max=0), (seen.high / smooth).amax().clamp(min=0)
        step = ((high - low) / STEPS).clamp(min=torch.finfo(torch.float32).tiny)
        return InputScales(smooth * step, (-low / step).round() - 128)

    def product_scales(self, name: str) -> Tensor:
        """Return the symmetric scales `(2,)` of `parts.ATTENTION_OPERANDS` of the attention products `name`."""
        ranges = [self.inputs[f"{name}.{operand}"] for operand in ATTENTION_OPERANDS]
        scales = [torch.maximum(seen.low.abs(), seen.high.abs()) / INT8_MAX for seen in ranges]
        return torch.cat(scales).clamp(min=torch.finfo(torch.float32).tiny)

    def covers(self, modules: Iterable[str]) -> bool:
        """Return whether all of `modules` have been observed."""
        return all(name in self.inputs or f"{name}.query" in self.inputs for name in modules)

    @contextmanager
    def observe(self, model: AcousticModel, modules: Iterable[str]) -> Iterator[None]:
        """Widen the ranges by the inputs of `modules` in each forward pass of `model` inside the `with` block."""
        hooks = []
        for name in modules:
            module = model.get_submodule(name)
            hooks.append(module.register_forward_pre_hook(self._observer(name, module)))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _observer(self, name: str, module: nn.Module) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def observe_channels(_module: nn.Module, arguments: tuple[Any, ...]) -> None:
            rows = arguments[0].flatten(0, -2)
            self._include(name, Range(rows.amin(0), rows.amax(0)))

        def observe_products(_module: nn.Module, arguments: tuple[Any, ...]) -> None:
            for operand, values in zip(ATTENTION_OPERANDS, arguments, strict=False):
                self._include(f"{name}.{operand}", Range(values.amin().view(1), values.amax().view(1)))

        return observe_products if is_attention(name) else observe_channels

    def _include(self, name: str, seen: Range) -> None:
        if name in self.inputs:
            self.inputs[name].include(seen)
        else:
            self.inputs[name] = seen


def _siblings(name: str) -> list[str]:
    """Return the names of the modules with the same input and scales as module `name`, including itself."""
    layer, _, kind = name.rpartition(".")
    if kind in ("q_proj", "k_proj", "v_proj"):
        return [f"{layer}.{sibling}" for sibling in ("q_proj", "k_proj", "v_proj")]
    return [name]
