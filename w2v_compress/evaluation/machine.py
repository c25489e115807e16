"""Description of the machine, peak memory, and interleaved timing."""

import importlib.metadata
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import psutil

from .. import memory
from ..cores import available_cores
from ..processor import processor
from ..runtime.engines.engine import Engine

Key = TypeVar("Key")


def describe_machine(device: str = "cpu", threads: int | None = None) -> dict[str, Any]:
    """Return the processor, available cores, threads, memory, versions and device, to store with measurements.

    `threads` is by default the number that torch uses.
    """
    description = {
        "processor": processor().name,
        "cores": available_cores(),
        "threads": _torch_threads() if threads is None else threads,
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
        "openvino": _version("openvino"),
        "device": device,
    }
    if device.startswith("cuda"):
        import torch

        description["gpu"] = torch.cuda.get_device_name(device)
    return description


def describe_engine(engine: Engine) -> dict[str, Any]:
    """Return `describe_machine` for what an engine uses of the machine, with the name of the engine."""
    return describe_machine(engine.device, engine.threads) | {"engine": engine.name}


def peak_memory(device: str = "cpu") -> int:
    """Return the peak memory in bytes: of this process, or on a GPU of torch's allocations."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated(device)
    return memory.peak_memory()


def _torch_threads() -> int:
    import torch

    return torch.get_num_threads()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def interleaved_latency(runs: Mapping[Key, Callable[[], Any]], repeats: int = 9) -> dict[Key, float]:
    """Return the median milliseconds of each callable, timed as in `interleaved_times`."""
    return {name: statistics.median(times) for name, times in interleaved_times(runs, repeats).items()}


def interleaved_times(runs: Mapping[Key, Callable[[], Any]], repeats: int) -> dict[Key, list[float]]:
    """Return the milliseconds of `repeats` calls of each callable.

    The callables take turns, so that a change in the machine's speed affects all of them equally. Each is called once
    beforehand as a warm-up.
    """
    for run in runs.values():
        run()
    times: dict[Key, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(1000 * (time.perf_counter() - start))
    return times
