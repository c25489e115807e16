"""Networks without memory, to know their modules and shapes by."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class _NothingDrawn(TorchFunctionMode):
    """Normal distributions are not drawn from: there is nothing to fill, and torch would import its compiler."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.normal_, nn.init.normal_, nn.init.kaiming_normal_):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


@contextmanager
def without_memory() -> Iterator[None]:
    """Within, modules are made on the meta device; filling one with random weights then would take seconds."""
    with torch.device("meta"), _NothingDrawn():
        yield
