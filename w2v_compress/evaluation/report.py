"""Formatting and reading of results: sizes, Markdown tables, JSON reports."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tabulate import tabulate

from ..errors import InputError
from ..json_objects import read_json

Table = tuple[str, list[str], list[list[str]]]
"""Title, column names and lines."""


def megabytes(size: int) -> str:
    """Format a number of bytes in megabytes (1e6 bytes)."""
    return f"{size / 1e6:.2f} MB"


def compute_device(machine: Mapping[str, Any]) -> str:
    """Name what a description of `describe_machine` says was computed on: the GPU, or the processor and its threads."""
    return machine.get("gpu") or f"{machine.get('processor')}, {machine.get('threads')} threads"


def markdown_table(columns: list[str], lines: list[list[str]]) -> str:
    """Format a Markdown table; every line, including the last, ends with a newline."""
    return tabulate(lines, columns, tablefmt="github", disable_numparse=True) + "\n"


def markdown_tables(tables: Sequence[Table]) -> str:
    """Format tables in Markdown, without their titles."""
    return "\n".join(markdown_table(columns, lines) for _, columns, lines in tables)


def to_json(tables: Sequence[Table]) -> list[dict[str, Any]]:
    """Return tables as the value of `tables` in a results file, from which `read_tables` reads them."""
    return [{"title": title, "columns": columns, "lines": lines} for title, columns, lines in tables]


def read_tables(results: Mapping[str, Any]) -> list[Table]:
    """Return the tables that a results file has under `tables`; none if it has no such value."""
    return [
        (str(table["title"]), [*map(str, table["columns"])], [[*map(str, line)] for line in table["lines"]])
        for table in results.get("tables", ())
    ]


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
