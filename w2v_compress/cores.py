"""How many cores this process may use."""

import math
from pathlib import Path

import psutil

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def available_cores() -> int:
    """The cores that this process may use: by affinity, and by the CPU time that its container gets."""
    process = psutil.Process()
    cores = len(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else psutil.cpu_count() or 1
    try:
        time, period = CPU_QUOTA.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return cores  # no such container
    return cores if time == "max" else min(cores, max(1, math.ceil(int(time) / int(period))))
