"""Threads: those asked for, else no more than there are cores for."""

from collections.abc import Iterator

import pytest
import torch

from w2v_compress.errors import InputError
from w2v_compress.runtime.engines import threads
from w2v_compress.runtime.engines.threads import set_threads


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


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
