"""How many threads to compute with. More than there are cores for, and they wait for one another."""

import math
import os
from pathlib import Path

from ..errors import InputError

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def set_threads(threads: int | None) -> None:
    """Set torch's threads for the whole process: to `threads`, or by default to no more than there are cores for.

    torch takes as many as the machine has cores, also where a container or a batch system gives this process fewer.
    Raises `InputError` when `threads` is below 1.
    """
    import torch

    if threads is None:
        threads = min(torch.get_num_threads(), available_cores())
    elif threads < 1:
        raise InputError(f"`threads` is {threads}; it must be at least 1")
    if threads != torch.get_num_threads():
        torch.set_num_threads(threads)


def available_cores() -> int:
    """The cores that this process may use: by affinity, and by the CPU time that its container gets."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        time, period = CPU_QUOTA.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return cores  # no such container
    return cores if time == "max" else min(cores, max(1, math.ceil(int(time) / int(period))))
