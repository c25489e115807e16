"""Exclude parameters from a step of fairseq's optimizers."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn


@contextlib.contextmanager
def excluding_from_step(optimizer: Any, parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Exclude `parameters` from steps of fairseq's `optimizer` in this context: neither they nor their state change.

    This is for parameters without a gradient in an update. Adam skips them in one process in fp32, but `legacy_ddp`
    and the half-precision optimizers give them a zero gradient, with which momentum and weight decay change them.
    """
    excluded = set(parameters)
    for parameter in excluded:
        parameter.grad = None
    copies = getattr(optimizer, "fp32_params", None)
    if isinstance(copies, list):  # one fp32 copy per parameter
        for parameter, copy in zip(optimizer.fp16_params, copies, strict=True):
            if parameter in excluded:
                copy.grad = None
        copies = None
    slices = [] if copies is None else list(_slices_of(excluded, optimizer.fp16_params, copies))
    before = [
        {name: vector[location].clone() for name, vector in _vectors(optimizer, flat).items()}
        for flat, location in slices
    ]
    yield
    for (flat, location), values in zip(slices, before, strict=True):
        for name, vector in _vectors(optimizer, flat).items():
            vector[location] = values.get(name, 0)  # the first step creates the moments
    if slices:
        optimizer._sync_fp32_params_to_fp16()


def _slices_of(
    excluded: set[nn.Parameter], parameters: Sequence[nn.Parameter], copies: Mapping[Any, nn.Parameter]
) -> Iterator[tuple[nn.Parameter, slice]]:
    """Yield the location of each `excluded` parameter in the flat fp32 vector of its device."""
    ends = dict.fromkeys(copies, 0)
    for parameter in parameters:
        device = parameter.device.index
        start, ends[device] = ends[device], ends[device] + parameter.numel()
        if parameter in excluded:
            yield copies[device], slice(start, ends[device])


def _vectors(optimizer: Any, flat: nn.Parameter) -> dict[str, Tensor]:
    """Return the flat parameter vector and the optimizer state of the same shape, such as Adam's moments."""
    state = optimizer.optimizer.state.get(flat, {})
    moments = {name: value for name, value in state.items() if isinstance(value, Tensor) and value.shape == flat.shape}
    return {"": flat.data, **moments}
