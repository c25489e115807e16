"""fairseq in several processes: on CPUs, and with parameters that have no gradient."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..nn.encoder import Encoder


def gathering_on_cpu(stock: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    """Fairseq's `all_gather_list`, with its buffers on the CPU unless the backend is NCCL."""

    @functools.wraps(stock)
    def all_gather_list(data: Any, group: Any = None, max_size: int = 16384) -> list[Any]:
        from fairseq.distributed import utils as distributed_utils

        group = distributed_utils.get_global_group() if group is None else group
        if torch.distributed.get_backend(group) != "nccl":
            # The stock function keeps its buffers as attributes of its own name, which is this function now.
            size = max_size * distributed_utils.get_world_size(group)
            all_gather_list.__dict__.update(
                _buffer=torch.empty(size, dtype=torch.uint8), _cpu_buffer=torch.empty(max_size, dtype=torch.uint8)
            )
        return stock(data, group, max_size)

    return all_gather_list


def distributed_data_parallel(
    module: nn.Module, *, device_ids: list[int], output_device: int, find_unused_parameters: bool, **options: Any
) -> nn.parallel.DistributedDataParallel:
    """torch's, on CPUs too, and looking for parameters without a gradient in models of ours, whatever the setting.

    Skipped layers, upsampling for other squeeze factors and what is frozen have none. Without looking for them, the
    gradients that share a bucket with them would not be exchanged, and the ranks would drift apart unnoticed.
    """
    ours = any(isinstance(part, Encoder) for part in module.modules())
    options["find_unused_parameters"] = find_unused_parameters or ours
    if all(parameter.device.type == "cpu" for parameter in module.parameters()):
        return nn.parallel.DistributedDataParallel(module, **options)
    return nn.parallel.DistributedDataParallel(module, device_ids=device_ids, output_device=output_device, **options)
