"""Results as text: Markdown tables, sizes, and reading reports."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from tabulate import tabulate

from ..errors import InputError


def megabytes(size: int) -> str:
    """Bytes as people read them, in millions."""
    return f"{size / 1e6:.2f} MB"


def markdown_table(columns: list[str], lines: list[list[str]]) -> str:
    """A table for a README, each line with its end."""
    return tabulate(lines, columns, tablefmt="github", disable_numparse=True) + "\n"


def read_report(path: Path, fields: Collection[str], what: str) -> dict[str, Any]:
    """A JSON object that has these fields. Raises `InputError` when the file is not that, which is `what`."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    except ValueError as error:
        raise InputError(f"{path}: is not JSON ({error})") from None
    missing = [name for name in fields if not isinstance(report, dict) or name not in report]
    if missing:
        raise InputError(f"{path}: has no `{missing[0]}`; it must be {what}")
    return report
