"""Formatting and reading of results: sizes, Markdown tables, JSON reports."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from tabulate import tabulate

from ..errors import InputError, readable


def megabytes(size: int) -> str:
    """Format a number of bytes in megabytes (1e6 bytes)."""
    return f"{size / 1e6:.2f} MB"


def compute_device(machine: Mapping[str, Any]) -> str:
    """Name what a description of `describe_machine` says was computed on: the GPU, or the processor and its threads."""
    return machine.get("gpu") or f"{machine.get('processor')}, {machine.get('threads')} threads"


def markdown_table(columns: list[str], lines: list[list[str]]) -> str:
    """Format a Markdown table; every line, including the last, ends with a newline."""
    return tabulate(lines, columns, tablefmt="github", disable_numparse=True) + "\n"


def read_report(path: Path, fields: Collection[str], description: str) -> dict[str, Any]:
    """Read a JSON object that has at least `fields`; `description` says in errors what the file must be.

    Raises `InputError` when the file cannot be read, is not JSON, or lacks a field.
    """
    with readable(path):
        content = path.read_bytes()
    try:
        report = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not JSON ({error})") from None
    missing = [name for name in fields if not isinstance(report, dict) or name not in report]
    if missing:
        raise InputError(f"{path}: has no `{missing[0]}`; it must be {description}")
    return report
