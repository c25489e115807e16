"""Read JSON that others wrote, strictly and in bounded memory."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

from .errors import InputError, readable

MAX_BYTES = 1 << 24
"""Longest JSON text that is read. Parsed, a text may take twenty times its size."""


def read_json(path: Path) -> dict[str, Any]:
    """Read the object in the JSON file `path`. Raises `InputError` that names the file, as `parse_json` does."""
    with readable(path):
        size = path.stat().st_size
        content = path.read_bytes() if size <= MAX_BYTES else b""
    _check_size(size, f"{path}:")
    return parse_json(content, f"{path}:")


def parse_json(text: str | bytes, subject: str) -> dict[str, Any]:
    """Return the JSON object in `text`.

    Raises `InputError` that starts with `subject` if the text is longer than `MAX_BYTES`, is not JSON in UTF-8 or is
    nested too deeply, if it is not an object, if a name is repeated, or if a number is not finite.
    """
    _check_size(len(text), subject)
    try:
        content = text if isinstance(text, str) else text.decode("utf-8")
        value = json.loads(content, object_pairs_hook=_unique, parse_float=_finite, parse_constant=_finite)
    except RecursionError:
        raise InputError(f"{subject} is not JSON (it is nested too deeply)") from None
    except ValueError as error:
        raise InputError(f"{subject} is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise InputError(f"{subject} must be a JSON object")
    return value


def _check_size(size: int, subject: str) -> None:
    if size > MAX_BYTES:
        raise InputError(f"{subject} has {size} bytes of JSON; at most {MAX_BYTES} are allowed")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the pairs of a JSON object; raise `ValueError` for a repeated name, of which readers may take either."""
    values = dict(pairs)
    if len(values) < len(pairs):
        name, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"the name {name[:80]!r} is repeated")
    return values


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:80]} is not a finite number")
    return number
