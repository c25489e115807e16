"""Patch fairseq's distributed training for CPUs and for parameters without a gradient."""

import functools
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..nn.encoder import Encoder


def patch_all_gather_list(stock: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    """Patch fairseq's `all_gather_list` to allocate its buffers on the CPU unless the backend is NCCL."""

    @functools.wraps(stock)
    def all_gather_list(data: Any, group: Any = None, max_size: int = 16384) -> list[Any]:
        from fairseq.distributed import utils as distributed_utils

        group = distributed_utils.get_global_group() if group is None else group
        if torch.distributed.get_backend(group) != "nccl":
            # The stock function reads its buffers from attributes of its global name, which is now this function.
            size = max_size * distributed_utils.get_world_size(group)
            all_gather_list.__dict__.update(
                _buffer=torch.empty(size, dtype=torch.uint8), _cpu_buffer=torch.empty(max_size, dtype=torch.uint8)
            )
        return stock(data, group, max_size)

    return all_gather_list


def distributed_data_parallel(
    module: nn.Module, *, device_ids: list[int], output_device: int, find_unused_parameters: bool, **options: Any
) -> nn.parallel.DistributedDataParallel:
    """Create torch's `DistributedDataParallel`, on CPUs too; for networks of this package, it finds unused parameters.

    Skipped layers, upsampling for other squeeze factors and frozen parameters have no gradient. Unless
    `find_unused_parameters` is set, gradients in the same bucket are not exchanged, and the ranks silently diverge.
    """
    has_unused = any(isinstance(part, Encoder) for part in module.modules())
    options["find_unused_parameters"] = find_unused_parameters or has_unused
    if all(parameter.device.type == "cpu" for parameter in module.parameters()):
        return nn.parallel.DistributedDataParallel(module, **options)
    return nn.parallel.DistributedDataParallel(module, device_ids=device_ids, output_device=output_device, **options)


def wait_for_gloo_threads() -> None:
    """Give gloo's threads time to free their last tensors; to be called at exit, while Python still runs.

    Freeing a tensor takes Python's lock. A thread that asks for the lock after Python has begun to shut down aborts
    the process, so that a finished training would end with SIGABRT (a known fault of torch, seen on a busy machine).
    Destroying the process group does not help: the network that was trained still refers to it.
    """
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized() and distributed.get_backend() == "gloo":
        time.sleep(0.2)
