"""Replacing modules inside a network."""

from collections.abc import Callable

from torch import nn


def replace_modules(model: nn.Module, substitute: Callable[[str, nn.Module], nn.Module | None]) -> dict[str, nn.Module]:
    """Replace each module of `model` for which `substitute(name, module)` returns another one.

    Returns the replaced modules by name, from which `restore_modules` puts them back. What is inside a replaced module
    is not visited.
    """
    replaced: dict[str, nn.Module] = {}
    for name, module in list(model.named_modules()):
        if any(name.startswith(f"{outer}.") for outer in replaced):
            continue
        new = substitute(name, module)
        if new is not None:
            model.set_submodule(name, new)
            replaced[name] = module
    return replaced


def restore_modules(model: nn.Module, originals: dict[str, nn.Module]) -> None:
    """Put back the modules that `replace_modules` returned."""
    for name, module in originals.items():
        model.set_submodule(name, module)
