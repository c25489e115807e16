"""Patch fairseq to make its random numbers functions of (seed, update number)."""

from typing import Any

import numpy as np
import torch
from torch import Tensor


class _Generator(np.random.Generator):
    """numpy's generator with `randint`, the method of `RandomState` that fairseq calls."""

    randint = np.random.Generator.integers


def seeded_generator(seed: Any = None) -> _Generator:
    """Replace numpy's `default_rng` for masks: without `seed`, draw one from torch.

    fairseq's trainer calls `torch.manual_seed(seed + updates)`, so equal seeds give equal masks, also after resuming.
    The rank is part of the seed because all processes have the same torch seed but must mask differently.
    """
    if seed is None:
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        seed = (int(torch.randint(2**62, ())), rank)
    return _Generator(np.random.PCG64(seed))


def patch_set_torch_seed(stock: type, layer_drops: np.random.RandomState) -> type:
    """Patch fairseq's `set_torch_seed`, called before each update, to seed the choice of dropped layers too.

    Stock fairseq draws dropped layers from numpy's global state, which is reset on resuming and shared with loader
    threads. torch's state is unsuitable: it depends on the batch, and all processes must drop the same layers.
    """

    class SetTorchSeed(stock):
        def __init__(self, seed: int) -> None:
            super().__init__(seed)
            layer_drops.seed(seed % 2**32)

    return SetTorchSeed


def crop_to_max_size(_dataset: Any, tensor: Tensor, target_size: int, dim: int = 0) -> Tensor:
    """Crop `tensor` to `target_size` at a random offset along `dim`, without the deprecated indexing by a list."""
    surplus = tensor.size(dim) - target_size
    return tensor if surplus <= 0 else tensor.narrow(dim, np.random.randint(0, surplus + 1), target_size)
