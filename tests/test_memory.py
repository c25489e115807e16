"""Peak memory, and memory given back."""

import mmap
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from w2v_compress.memory import peak_memory, release_memory

MEGABYTES = 2**20


def test_the_peak_is_at_least_what_is_used_now() -> None:
    assert peak_memory() >= psutil.Process().memory_info().rss - MEGABYTES


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no /proc")
def test_pages_of_a_mapped_file_are_given_back_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    content = np.random.default_rng(0).integers(0, 256, 64 * MEGABYTES, dtype=np.uint8)
    path.write_bytes(content.tobytes())
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert sum(mapped[::4096]) > 0
        before = psutil.Process().memory_info().rss
        release_memory(path)
        assert psutil.Process().memory_info().rss < before - 50 * MEGABYTES
        assert mapped[:] == content.tobytes()
