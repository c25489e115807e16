"""Replacing and restoring modules."""

import torch
from torch import nn

from w2v_compress.nn.modules import replace_modules, restore_modules


def test_modules_are_replaced_once_and_restored() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.Linear(2, 2))
    inner, last = model[0], model[1]
    x = torch.randn(3, 2)
    before = model(x)
    visited = []

    def substitute(name: str, module: nn.Module) -> nn.Module | None:
        visited.append(name)
        return nn.Identity() if name == "0" or isinstance(module, nn.Linear) else None

    replaced = replace_modules(model, substitute)
    assert replaced == {"0": inner, "1": last}
    assert visited == ["", "0", "1"]
    assert torch.equal(model(x), x)
    restore_modules(model, replaced)
    assert torch.equal(model(x), before)
