"""Split long work over processes or machines, and let each part go on where it was killed."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from .errors import InputError, prefixed, readable
from .json_objects import parse_json

Item = TypeVar("Item")
MAX_SHARDS = 100_000


@dataclass(frozen=True, order=True)
class Shard:
    """One of several parts of a job."""

    index: int
    """Number of the shard, from 1."""
    count: int
    """Number of shards."""

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Parse `I/N`, such as 3/8. Raises `InputError` for anything else."""
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]) <= MAX_SHARDS:
            raise InputError(f"shard {text!r} must be I/N, such as 3/8: the I-th, from 1, of at most {MAX_SHARDS}")
        return cls(int(match[1]), int(match[2]))

    def of(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return the items of this shard; those of all shards, one after the other, are `items`."""
        start, end = ((number * len(items)) // self.count for number in (self.index - 1, self.index))
        return items[start:end]

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @property
    def file_name(self) -> str:
        """Name of the file with the results of this shard."""
        return f"shard-{self.index:06}-of-{self.count:06}.jsonl"


class Journal:
    """The results of a shard, one JSON object per line after a line about the job, in a file that grows.

    A result counts once its line is complete: if the process was killed while it wrote one, that line is removed when
    the file is opened again.
    """

    def __init__(self, folder: Path, shard: Shard, job: dict[str, Any], total: int) -> None:
        """Open the file of `shard` in `folder`, and read the results that it has.

        Args:
            folder: Folder of the job, created if missing.
            shard: The shard.
            job: What the job does, to tell it from others; JSON values.
            total: Number of results of the complete shard.

        Raises:
            InputError: The file belongs to another job, is damaged, or cannot be written.
        """
        self.path = folder / shard.file_name
        self.total = total
        header = {"job": job, "shard": str(shard), "total": total}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab")
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written: {error.strerror or error}") from None
        self.results, size = _read_lines(self.path)
        self._file.truncate(size)
        if not size:
            self._write(header)
        elif self.results.pop(0) != header:
            raise InputError(f"{self.path}: is of another job; choose another folder, or remove it")

    def append(self, result: dict[str, Any]) -> None:
        """Write a result. Raises `InputError` if that fails, for example on a full disk."""
        self._write(result)
        self.results.append(result)

    def _write(self, value: dict[str, Any]) -> None:
        line = json.dumps(value, allow_nan=False)  # in ASCII, since paths may hold bytes that are not UTF-8
        try:
            self._file.write(f"{line}\n".encode("ascii"))
            self._file.flush()
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written: {error.strerror or error}") from None

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class Merged:
    """The results of all shards of a job."""

    job: dict[str, Any]
    results: list[dict[str, Any]]
    """The results in the order of the whole."""


def merge(folder: Path) -> Merged:
    """Join the results of all shards in `folder`.

    Raises `InputError` that names the shards that are missing or not complete, and files of another job.
    """
    paths = sorted(folder.glob("shard-*-of-*.jsonl"))
    if not paths:
        raise InputError(f"{folder}: has no results of shards; name the folder that was given with --shard")
    parts = [_read_part(path) for path in paths]
    job, count = parts[0].job, parts[0].shard.count
    for path, part in zip(paths, parts, strict=True):
        if part.job != job or part.shard.count != count:
            raise InputError(f"{path}: is of another job than {paths[0].name}; remove one of the two")
    missing = sorted(set(range(1, count + 1)) - {part.shard.index for part in parts})
    partial = [f"{part.shard} has {len(part.results)} of {part.total}" for part in parts if not part.complete]
    problems = ([f"no shard {_ranges(missing)} of {count}"] if missing else []) + partial[:5]
    if problems:
        raise InputError(f"{folder}: cannot be merged yet: {', '.join(problems)}; run these shards to their end")
    return Merged(job, [result for part in parts for result in part.results])


@dataclass(frozen=True)
class _Part:
    shard: Shard
    job: dict[str, Any]
    total: int
    results: list[dict[str, Any]]

    @property
    def complete(self) -> bool:
        return len(self.results) == self.total


def _read_part(path: Path) -> _Part:
    lines, _ = _read_lines(path)
    header = lines.pop(0) if lines else {}
    job, total = header.get("job"), header.get("total")
    if not isinstance(job, dict) or type(total) is not int or total < 0:
        raise InputError(f"{path}: line 1 does not describe a job")
    with prefixed(f"{path}: line 1"):
        return _Part(Shard.parse(str(header.get("shard"))), job, total, lines)


def _read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Return the values of the complete lines of `path`, and their size in bytes."""
    values, size = [], 0
    with readable(path), path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                values.append(parse_json(line, "it"))
            except InputError as error:
                raise InputError(f"{path}: line {number} is damaged; remove it and those after it ({error})") from None
            size += len(line)
    return values, size


def _ranges(numbers: Sequence[int]) -> str:
    """Format sorted numbers as ranges, such as `1-3, 7`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
