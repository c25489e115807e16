"""Replacing modules."""

import torch
from torch import nn

from w2v_compress.nn.modules import replace_modules


def test_modules_are_replaced_once() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.Linear(2, 2))
    x = torch.randn(3, 2)
    visited = []

    def substitute(name: str, module: nn.Module) -> nn.Module | None:
        visited.append(name)
        return nn.Identity() if name == "0" or isinstance(module, nn.Linear) else None

    replace_modules(model, substitute)
    assert visited == ["", "0", "1"]
    assert torch.equal(model(x), x)
