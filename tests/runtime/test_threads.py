"""Threads: those asked for, else no more than there are cores for."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from w2v_compress.errors import InputError
from w2v_compress.runtime import threads
from w2v_compress.runtime.threads import available_cores, set_threads


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000\n", 8), ("200000 100000\n", 2), ("250000 100000\n", 3), ("50000 100000\n", 1), ("900000 100000", 8)],
)
def test_a_container_gets_what_it_is_given(
    quota: str, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(threads, "CPU_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _process: range(8))
    assert available_cores() == cores


def test_without_a_container_the_affinity_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "CPU_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _process: {0, 5})
    assert available_cores() == 2


def test_what_is_asked_for_is_set_and_the_rest_only_lowered(monkeypatch: pytest.MonkeyPatch) -> None:
    set_threads(3)
    assert torch.get_num_threads() == 3
    monkeypatch.setattr(threads, "available_cores", lambda: 2)
    set_threads(None)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    set_threads(None)
    assert torch.get_num_threads() == 1
    with pytest.raises(InputError, match="`threads` is 0; it must be at least 1"):
        set_threads(0)
