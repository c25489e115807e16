"""Formatting and reading of results: sizes, Markdown tables, JSON reports."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tabulate import tabulate

from ..errors import InputError
from ..json_objects import read_json


def megabytes(size: int) -> str:
    """Format a number of bytes in megabytes (1e6 bytes)."""
    return f"{size / 1e6:.2f} MB"


def compute_device(machine: Mapping[str, Any]) -> str:
    """Name what a description of `describe_machine` says was computed on: the GPU, or the processor and its threads."""
    return machine.get("gpu") or f"{machine.get('processor')}, {machine.get('threads')} threads"


def markdown_table(columns: list[str], lines: list[list[str]]) -> str:
    """Format a Markdown table; every line, including the last, ends with a newline."""
    return tabulate(lines, columns, tablefmt="github", disable_numparse=True) + "\n"


@contextmanager
def well_formed(path: Path) -> Iterator[None]:
    """Turn errors from values that a file of results lacks, or that have another type, into an `InputError`."""
    try:
        yield
    except InputError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise InputError(f"{path}: a value is missing or invalid ({type(error).__name__}: {error})") from None


def read_report(path: Path, fields: Collection[str], description: str) -> dict[str, Any]:
    """Read a JSON object that has at least `fields`; `description` says in errors what the file must be.

    Raises `InputError` when the file cannot be read, is not JSON, or lacks a field.
    """
    report = read_json(path)
    missing = [name for name in fields if name not in report]
    if missing:
        raise InputError(f"{path}: has no `{missing[0]}`; it must be {description}")
    return report
