"""Writing files whole or not at all."""

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import InputError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, with its suffix: write there, and it takes the place of `path` on success.

    On any failure the temporary file is removed and what was at `path` stays. Raises `InputError` that names `path`
    when it cannot be written: no such folder, no permission, a full disk, something there that is not a plain file.
    """
    target = Path(path).resolve()
    if target.exists() and not target.is_file():
        raise InputError(f"{path}: cannot be written: it exists and is not a plain file")
    if not target.parent.is_dir():
        raise InputError(f"{path}: cannot be written: the folder {target.parent} does not exist")
    # not `tempfile`, whose files only their owner may read
    temporary = target.with_name(f".{target.stem}.{secrets.token_hex(4)}.tmp{target.suffix}")
    try:
        yield temporary
        os.replace(temporary, target)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """`value` as indented JSON at `path`, whole or not at all."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
