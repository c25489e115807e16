"""Steps of fairseq's optimizers that leave parameters without a gradient untouched."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn


@contextlib.contextmanager
def leaving_untouched(optimizer: Any, parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Within, a step of fairseq's `optimizer` changes neither these parameters nor what it keeps of them.

    For parameters that have no gradient in this update. In one process in fp32 Adam leaves them out, but `legacy_ddp`
    and the optimizers for half precision give them a gradient of zeros, by which momentum and weight decay move them.
    """
    left = set(parameters)
    for parameter in left:
        parameter.grad = None
    copies = getattr(optimizer, "fp32_params", None)
    if isinstance(copies, list):  # a copy in fp32 of each parameter
        for parameter, copy in zip(optimizer.fp16_params, copies, strict=True):
            if parameter in left:
                copy.grad = None
        copies = None
    slices = [] if copies is None else list(_slices_of(left, optimizer.fp16_params, copies))
    before = [
        {name: vector[place].clone() for name, vector in _vectors(optimizer, flat).items()} for flat, place in slices
    ]
    yield
    for (flat, place), values in zip(slices, before, strict=True):
        for name, vector in _vectors(optimizer, flat).items():
            vector[place] = values.get(name, 0)  # moments begin with the first step
    if slices:
        optimizer._sync_fp32_params_to_fp16()


def _slices_of(
    left: set[nn.Parameter], parameters: Sequence[nn.Parameter], copies: Mapping[Any, nn.Parameter]
) -> Iterator[tuple[nn.Parameter, slice]]:
    """Where the copies of parameters on one device, which fairseq joins to one vector, hold those of `left`."""
    ends = dict.fromkeys(copies, 0)
    for parameter in parameters:
        device = parameter.device.index
        start, ends[device] = ends[device], ends[device] + parameter.numel()
        if parameter in left:
            yield copies[device], slice(start, ends[device])


def _vectors(optimizer: Any, flat: nn.Parameter) -> dict[str, Tensor]:
    """The values of the joined parameters, and what the optimizer keeps of each, such as Adam's moments."""
    state = optimizer.optimizer.state.get(flat, {})
    moments = {name: value for name, value in state.items() if isinstance(value, Tensor) and value.shape == flat.shape}
    return {"": flat.data, **moments}
