"""Atomic writes: a file or folder is written completely or not at all."""

import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import InputError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, with the same suffix, and move it to `path` on success.

    The file gets the permissions that `open(path, "w")` would give: those of the file it replaces, or those that the
    umask allows for a new file. Missing parent folders are created. On failure, the temporary file and the created
    folders are removed, and an existing file at `path` stays as it was.

    Raises:
        InputError: `path` cannot be written: no permission, a full disk, or `path` exists and is not a plain file.
    """
    target = _resolve_file(path)
    # Not `tempfile`, whose files only their owner may read.
    temporary = target.with_name(f".{target.stem}.{secrets.token_hex(4)}.tmp{target.suffix}")
    with _parents(path, target):
        try:
            yield temporary
            _set_mode(temporary, _mode(target))
            os.replace(temporary, target)
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
        except InputError as error:  # of a function that wrote to the temporary path, or read it
            raise InputError(str(error).replace(str(temporary), str(path))) from error
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def replacing_together(path: Path) -> Iterator[Path]:
    """Yield a path named like `path` in a temporary folder, and move all files of that folder beside `path` on success.

    For results of several files. `path` itself is moved last. Otherwise like `replacing`.
    """
    target = _resolve_file(path)
    with _temporary_folder(path, target) as folder:
        yield folder / target.name
        for file in sorted(folder.iterdir(), key=lambda file: file.name == target.name):
            _set_mode(file, _mode(target.with_name(file.name)))
            os.replace(file, target.with_name(file.name))


@contextmanager
def creating_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`, rename it to `path` on success, and remove it on failure.

    Missing parent folders are created.

    Raises:
        InputError: `path` cannot be written, or exists and is not an empty folder; existing content is never removed.
    """
    target = Path(path).resolve()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise InputError(f"{path}: cannot be written: it exists and is not an empty folder")
    with _temporary_folder(path, target) as folder:
        yield folder
        mode = _mode_of_new_files(folder)
        for file in folder.rglob("*"):
            if file.is_file():
                _set_mode(file, mode)
        if target.exists():
            target.rmdir()  # on Windows, os.replace() cannot replace a folder, not even an empty one
        os.replace(folder, target)


def _resolve_file(path: Path) -> Path:
    """Return the absolute form of `path`. Raises InputError if `path` exists and is not a plain file."""
    target = Path(path).resolve()
    if target.exists() and not target.is_file():
        raise InputError(f"{path}: cannot be written: it exists and is not a plain file")
    return target


@contextmanager
def _temporary_folder(path: Path, target: Path) -> Iterator[Path]:
    """Create a temporary folder beside `target`, the absolute form of `path`, and remove it in the end."""
    folder = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")  # not `tempfile`, see `replacing`
    with _parents(path, target):
        try:
            folder.mkdir()
            yield folder
        except OSError as error:
            if error.errno is None:  # not a system error, for example a library that cannot be loaded
                raise
            raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _parents(path: Path, target: Path) -> Iterator[None]:
    """Create the folders above `target`, the absolute form of `path`; on failure, remove those that are empty."""
    missing = [folder for folder in target.parents if not folder.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written: the folder {target.parent} cannot be created: {error.strerror or error}"
        ) from None
    try:
        yield
    except BaseException:
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()
        raise


def _mode(target: Path) -> int:
    """Return the permissions of the file `target`, or those of a new file if it does not exist."""
    try:
        return stat.S_IMODE(target.stat().st_mode)
    except FileNotFoundError:
        return _mode_of_new_files(target.parent)


def _mode_of_new_files(folder: Path) -> int:
    """Return the permissions of a new file in `folder`, by creating one: reading the umask would change it briefly."""
    probe = folder / f".{secrets.token_hex(8)}.tmp"
    try:
        probe.touch()
        return stat.S_IMODE(probe.stat().st_mode)
    finally:
        probe.unlink(missing_ok=True)


def _set_mode(file: Path, mode: int) -> None:
    """Set the permissions of `file`, unless they are `mode` already: some file systems do not support chmod."""
    if stat.S_IMODE(file.stat().st_mode) != mode:
        file.chmod(mode)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, atomically. Raises InputError like `replacing`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` as indented JSON, atomically. Raises InputError like `replacing`."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_text(path, text)
