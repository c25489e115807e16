"""Peak memory of this process, and memory that it can give back. Does not import torch."""

import ctypes
import mmap
import sys
from pathlib import Path

import psutil

STATUS = Path("/proc/self/status")
MAPS = Path("/proc/self/maps")


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


def release_memory(path: Path) -> None:
    """Give back free memory, and that with pages of the file `path`, which is mapped and never written to.

    The kernel reads a page again when it is needed. Does nothing on other systems than Linux.
    """
    try:
        maps = MAPS.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):  # glibc
        library.malloc_trim(0)
    madvise = library.madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    name = str(path.resolve())
    for line in maps.splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5] == name:
            start, end = (int(address, 16) for address in fields[0].split("-"))
            madvise(start, end - start, mmap.MADV_DONTNEED)
