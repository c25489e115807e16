"""Replace modules inside a network."""

from collections.abc import Callable

from torch import nn


def replace_modules(model: nn.Module, substitute: Callable[[str, nn.Module], nn.Module | None]) -> None:
    """Replace each module of `model` for which `substitute(name, module)` returns another module.

    The submodules of a replaced module are not visited.
    """
    replaced: set[str] = set()
    for name, module in list(model.named_modules()):
        if any(name.startswith(f"{outer}.") for outer in replaced):
            continue
        replacement = substitute(name, module)
        if replacement is not None:
            model.set_submodule(name, replacement)
            replaced.add(name)
