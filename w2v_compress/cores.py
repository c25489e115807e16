"""The number of CPU cores that this process may use."""

import math
from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")
"""The folder in which Linux shows the CPU quota of a container."""


def available_cores() -> int:
    """Return the number of cores this process may use: its CPU affinity, limited by the CPU quota of its container.

    A quota of a fraction of a core is rounded up.
    """
    process = psutil.Process()
    cores = len(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else psutil.cpu_count() or 1
    quota = _cpu_quota()
    return cores if quota is None else min(cores, max(1, math.ceil(quota)))


def _cpu_quota() -> float | None:
    """Return the CPU quota of the container in cores, or None without a quota. Reads cgroup v2, then cgroup v1."""
    for files in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):
        try:
            time, period = " ".join((CGROUP / file).read_text(encoding="ascii") for file in files).split()
            quota = int(time) / int(period)
        except (OSError, ValueError, ZeroDivisionError):
            continue  # no such file, or "max" in cgroup v2: no quota
        if quota > 0:  # cgroup v1 writes -1 for no quota
            return quota
    return None
