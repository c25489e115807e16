"""The exceptions for invalid input, which the command line prints as one line, and what gives them their prefix."""

from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """A file, field or argument is invalid. The message names it, says what is wrong and what is allowed."""


class AudioError(InputError):
    """Audio was rejected.

    `reason` is the kind of problem in a word or two, `detail` what is wrong with this audio.
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
