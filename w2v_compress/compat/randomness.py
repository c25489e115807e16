"""Random numbers of fairseq as functions of (seed, update number)."""

from typing import Any

import numpy as np
import torch
from torch import Tensor


class _Generator(np.random.Generator):
    """numpy's generator with the method that fairseq calls by the name it had in `RandomState`."""

    randint = np.random.Generator.integers


def seeded_generator(seed: Any = None) -> _Generator:
    """`default_rng` for masks: without a seed it takes one from torch, which fairseq seeds before each update.

    fairseq's trainer calls `torch.manual_seed(seed + updates)`, so masks are equal for equal seeds, after a resume
    too. The rank is added so that processes, whose torch seeds are equal, mask differently.
    """
    if seed is None:
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        seed = (int(torch.randint(2**62, ())), rank)
    return _Generator(np.random.PCG64(seed))


def seeding(stock: type, layer_drops: np.random.RandomState) -> type:
    """Fairseq's `set_torch_seed`, which runs before each update, seeding the choice of dropped layers as well.

    Stock draws that from numpy's global state, which a resumed run starts anew and loading threads share. It cannot
    come from torch's: its use there depends on the batch, and all processes have to drop the same layers.
    """

    class SetTorchSeed(stock):
        def __init__(self, seed: int) -> None:
            super().__init__(seed)
            layer_drops.seed(seed % 2**32)

    return SetTorchSeed


def crop_to_max_size(_dataset: Any, tensor: Tensor, target_size: int, dim: int = 0) -> Tensor:
    """A random part of `target_size` along `dim`. The stock method indexes with a list, which torch is dropping."""
    surplus = tensor.size(dim) - target_size
    return tensor if surplus <= 0 else tensor.narrow(dim, np.random.randint(0, surplus + 1), target_size)
