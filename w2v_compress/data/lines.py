"""Text files of millions of lines, in little memory."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ..errors import InputError, readable

CHUNK = 1 << 26
"""Bytes of a file that are searched for line ends at a time."""


class Lines(Sequence[str]):
    """The lines of a UTF-8 file, which stays on disk; memory holds the place of each line, 8 bytes.

    A final line end does not begin another line. The file must not change in the meantime. Raises `InputError` if the
    file cannot be read or, at a line, if it is not UTF-8.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with readable(path):
            size = path.stat().st_size
            self._content = np.memmap(path, np.uint8, "r") if size else np.zeros(0, np.uint8)
            pieces = range(0, size, CHUNK)
            ends = [start + np.flatnonzero(self._content[start : start + CHUNK] == ord("\n")) for start in pieces]
        found = np.concatenate([np.zeros(0, np.int64), *ends])
        if size and (not len(found) or found[-1] != size - 1):
            found = np.append(found, size)
        self._ends = found

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:  # type: ignore[override]  # slices are not needed
        place = range(len(self))[index]
        start = int(self._ends[place - 1]) + 1 if place else 0
        return _decode(self._content[start : int(self._ends[place])].tobytes(), self.path, place + 1)

    def __iter__(self) -> Iterator[str]:
        return read_lines(self.path)


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 file; errors are those of `Lines`."""
    with readable(path), path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            yield _decode(line.rstrip(b"\n"), path, number)


def _decode(line: bytes, path: Path, number: int) -> str:
    try:
        return line.decode("utf-8").rstrip("\r")
    except UnicodeDecodeError:
        raise InputError(f"{path}: line {number} is not UTF-8 text") from None
