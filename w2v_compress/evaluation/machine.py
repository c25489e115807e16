"""Description of the machine, peak memory, and interleaved timing."""

import functools
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch

from .. import memory
from ..cores import available_cores

Key = TypeVar("Key")


def describe_machine(device: str = "cpu") -> dict[str, Any]:
    """Return the processor, available cores, threads, memory, versions and device, to store with measurements."""
    description = {
        "processor": _processor(),
        "cores": available_cores(),
        "threads": torch.get_num_threads(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": device,
    }
    if torch.device(device).type == "cuda":
        description["gpu"] = torch.cuda.get_device_name(device)
    return description


def peak_memory(device: str = "cpu") -> int:
    """Return the peak memory in bytes: of this process, or on a GPU of torch's allocations."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return memory.peak_memory()


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


@functools.cache
def _processor() -> str:
    """Return the name of the processor.

    On Linux it is read from /proc/cpuinfo, because py-cpuinfo takes a second.
    """
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    import cpuinfo

    return cpuinfo.get_cpu_info().get("brand_raw") or platform.machine()
