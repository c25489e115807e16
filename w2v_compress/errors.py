"""Exceptions for invalid input, which the command line prints as one line, and helpers for their messages."""

import os
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager

CONTROL = ("Cc", "Cs")
"""Unicode categories of control characters, which terminals obey, and of surrogates, which no text may have."""


def shown(text: str) -> str:
    """Return `text` with control characters escaped: names of files may have any, and terminals obey them."""
    return "".join(
        character if unicodedata.category(character) not in CONTROL else ascii(character)[1:-1] for character in text
    )


class InputError(ValueError):
    """A file, field or argument is invalid. The message names it, says what is wrong and what is allowed."""


class AudioError(InputError):
    """An audio file or array is invalid.

    Attributes:
        reason: The kind of problem in one or two words; `prepare` counts rejected utterances by reason.
        detail: What is wrong with this audio.
    """

    def __init__(self, name: object, reason: str, detail: str) -> None:
        super().__init__(f"{name}: {detail}")
        self.reason = reason
        self.detail = detail


@contextmanager
def prefixed(where: object) -> Iterator[None]:
    """Prefix the message of any `InputError` raised inside with `where`: a file, a field or an option."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


@contextmanager
def readable(path: object) -> Iterator[None]:
    """Turn any `OSError` raised inside into an `InputError` that says that `path` cannot be read.

    A folder, a FIFO or a device, whose reading might never end, is an `InputError` from the beginning.
    """
    if isinstance(path, str | os.PathLike) and os.path.exists(path) and not os.path.isfile(path):
        raise InputError(f"{path}: is not a plain file")
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
