"""What a measurement was made on, what it took, and how times are compared."""

import functools
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import torch

from .. import memory
from ..cores import available_cores


def describe_machine(device: str = "cpu") -> dict[str, Any]:
    """Processor, cores open to this process, threads and versions, to stand beside every number."""
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
    """Most bytes held so far: by this whole process, or on a GPU by torch."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return memory.peak_memory()


def interleaved_latency(runs: Mapping[str, Callable[[], Any]], repeats: int = 9) -> dict[str, float]:
    """Median milliseconds of each callable, see `interleaved_times`."""
    return {name: statistics.median(times) for name, times in interleaved_times(runs, repeats).items()}


def interleaved_times(runs: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Milliseconds of each call of each callable, taken in turns so that a drifting machine hits all alike.

    Each is called once before, uncounted.
    """
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(1000 * (time.perf_counter() - start))
    return times


@functools.cache
def _processor() -> str:
    """The name of the processor. py-cpuinfo takes a second to find it, so on Linux it is read where that reads it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    import cpuinfo

    return cpuinfo.get_cpu_info().get("brand_raw") or platform.machine()
