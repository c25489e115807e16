"""Replace modules inside a network and restore them."""

from collections.abc import Callable

from torch import nn


def replace_modules(model: nn.Module, substitute: Callable[[str, nn.Module], nn.Module | None]) -> dict[str, nn.Module]:
    """Replace each module of `model` for which `substitute(name, module)` returns another module.

    The submodules of a replaced module are not visited. Returns the original modules by name, as `restore_modules`
    takes them.
    """
    originals: dict[str, nn.Module] = {}
    for name, module in list(model.named_modules()):
        if any(name.startswith(f"{outer}.") for outer in originals):
            continue
        replacement = substitute(name, module)
        if replacement is not None:
            model.set_submodule(name, replacement)
            originals[name] = module
    return originals


def restore_modules(model: nn.Module, originals: dict[str, nn.Module]) -> None:
    """Undo `replace_modules`: put the modules `originals` that it returned back into `model`."""
    for name, module in originals.items():
        model.set_submodule(name, module)
