"""Build networks on the meta device: modules and shapes without memory for the weights."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_RANDOM_INITIALIZERS = (Tensor.normal_, nn.init.normal_, nn.init.kaiming_normal_)


class _SkipRandomInitialization(TorchFunctionMode):
    """Skip initialization from normal distributions: meta tensors have no values, and torch would import its compiler.

    That import takes seconds.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _RANDOM_INITIALIZERS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


@contextmanager
def on_meta_device() -> Iterator[None]:
    """Create all modules and tensors inside the `with` block on the meta device, without random initialization."""
    with torch.device("meta"), _SkipRandomInitialization():
        yield
