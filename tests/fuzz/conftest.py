"""Try examples for as long as asked: `make fuzz MINUTES=30` sets FUZZ_SECONDS, the time of each test."""

import contextlib
import os
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from w2v_compress.errors import InputError
from w2v_compress.memory import peak_memory

EXAMPLES = 20
MAX_GROWTH = 1 << 30
"""Bytes of memory that hostile files, which are small here, may take."""

Fuzz = Callable[[Callable[[Any], object], SearchStrategy[Any]], None]


@pytest.fixture
def fuzz() -> Fuzz:
    """fuzz(check, strategy) calls `check` on examples; it may only raise `InputError`, and must not take memory."""

    def run(check: Callable[[Any], object], strategy: SearchStrategy[Any]) -> None:
        def guarded(example: Any) -> None:
            with contextlib.suppress(InputError):
                check(example)

        before, start, number = peak_memory(), time.monotonic(), 0
        options = settings(
            max_examples=EXAMPLES, deadline=10_000, database=None, suppress_health_check=list(HealthCheck)
        )
        while number == 0 or time.monotonic() - start < float(os.environ.get("FUZZ_SECONDS", "0")):
            seed(number)(options(given(strategy)(guarded)))()
            number += 1
        assert peak_memory() - before < MAX_GROWTH

    return run


def damage(content: bytes, start: int = 0, end: int | None = None) -> SearchStrategy[bytes]:
    """Copies of `content` with bytes changed between `start` and `end`, and perhaps cut or continued."""
    stop = len(content) if end is None else end

    def change(changes: list[tuple[int, bytes]], length: int, tail: bytes) -> bytes:
        changed = bytearray(content)
        for place, values in changes:
            changed[place : place + len(values)] = values
        return bytes(changed[:length]) + tail

    return st.builds(
        change,
        st.lists(st.tuples(st.integers(start, stop - 1), st.binary(min_size=1, max_size=8)), max_size=6),
        st.one_of(st.just(len(content)), st.integers(0, len(content))),
        st.binary(max_size=16),
    )


def edit_text(text: str) -> SearchStrategy[str]:
    """Copies of `text` with pieces replaced by other text."""

    def edit(edits: list[tuple[int, int, str]]) -> str:
        changed = text
        for place, length, new in edits:
            changed = changed[:place] + new + changed[place + length :]
        return changed

    odd = st.sampled_from(["", "\t", "\n", "\r", "\0", "\x1b[2J", "-1", "1e999", "../", "/", "NaN", "[" * 2000, "💥"])
    return st.lists(
        st.tuples(st.integers(0, len(text)), st.integers(0, 20), st.one_of(odd, st.text(max_size=8))), max_size=5
    ).map(edit)


@pytest.fixture
def damaged() -> Callable[..., SearchStrategy[bytes]]:
    return damage


@pytest.fixture
def edited() -> Callable[[str], SearchStrategy[str]]:
    return edit_text


@pytest.fixture
def json_values() -> SearchStrategy[Any]:
    return st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
        max_leaves=10,
    )
