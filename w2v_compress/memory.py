"""Peak memory of this process. Does not import torch."""

import sys
from pathlib import Path

import psutil

STATUS = Path("/proc/self/status")


def peak_memory() -> int:
    """Return the peak resident memory of this process so far, in bytes."""
    try:
        return 1024 * int(STATUS.read_text(encoding="ascii").partition("VmHWM:")[2].split()[0])
    except (OSError, IndexError):
        pass  # not Linux, where `ru_maxrss` below would include the memory of the parent process before exec
    memory = psutil.Process().memory_info()
    if hasattr(memory, "peak_wset"):  # Windows
        return memory.peak_wset
    import resource  # not available on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, kilobytes elsewhere
