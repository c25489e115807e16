import signal
from types import SimpleNamespace

import pytest

from w2v_compress.compat.launch import _cause

KILL, TERM, ABORT = -signal.SIGKILL, -signal.SIGTERM, -signal.SIGABRT


@pytest.mark.parametrize(
    ("failures", "cause"),
    [
        pytest.param({0: (1, 10), 1: (KILL, 10)}, 1, id="both seen at once: the killed one came first"),
        pytest.param({0: (1, 10), 1: (KILL, 11)}, 1, id="seen at once, across a second"),
        pytest.param({0: (1, 10), 1: (KILL, 41)}, 0, id="killed by torch, since it did not end"),
        pytest.param({1: (1, 10), 0: (TERM, 10)}, 1, id="ended by torch"),
        pytest.param({0: (1, 10), 1: (ABORT, 10)}, 0, id="NCCL aborts when another rank is gone"),
        pytest.param({0: (1, 12), 1: (1, 10)}, 1, id="the earlier error"),
    ],
)
def test_the_rank_that_failed_first_is_named(failures: dict[int, tuple[int, int]], cause: int) -> None:
    ended = {rank: SimpleNamespace(exitcode=code, timestamp=second) for rank, (code, second) in failures.items()}
    assert _cause(ended)[0] == cause  # type: ignore[arg-type]
