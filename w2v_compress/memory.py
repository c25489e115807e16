"""The memory of this process. Needs no torch."""

import sys
from pathlib import Path

import psutil

STATUS = Path("/proc/self/status")


def peak_memory() -> int:
    """Most bytes that this process has held so far."""
    try:
        return 1024 * int(STATUS.read_text(encoding="ascii").partition("VmHWM:")[2].split()[0])
    except (OSError, IndexError):
        pass  # not Linux, where the last figure below counts what the process held that started this one
    held = psutil.Process().memory_info()
    if hasattr(held, "peak_wset"):  # Windows
        return held.peak_wset
    import resource  # which Windows does not have

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
