"""Exceptions for invalid input, which the command line prints as one line, and helpers that prefix their messages."""

from collections.abc import Iterator
from contextlib import contextmanager


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
    """Turn any `OSError` raised inside into an `InputError` that says that `path` cannot be read."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
