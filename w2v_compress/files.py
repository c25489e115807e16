"""Writing files whole or not at all."""

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
    """A temporary path beside `path`, with its suffix: write there, and it takes the place of `path` on success.

    It gets the permissions that `open(path, "w")` would give, whatever wrote it: those of the file that it replaces, or
    what the umask allows a new one. Folders that are missing are made. On any failure the temporary file is removed,
    and so are these folders, and what was at `path` stays. Raises `InputError` that names `path` when it cannot be
    written: no permission, a full disk, something there that is not a plain file.
    """
    target = Path(path).resolve()
    if target.exists() and not target.is_file():
        raise InputError(f"{path}: cannot be written: it exists and is not a plain file")
    # not `tempfile`, whose files only their owner may read
    temporary = target.with_name(f".{target.stem}.{secrets.token_hex(4)}.tmp{target.suffix}")
    with _parents(path, target):
        try:
            yield temporary
            _set_mode(temporary, _mode(target))
            os.replace(temporary, target)
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def replacing_together(path: Path) -> Iterator[Path]:
    """As `replacing`, for a result of several files: the temporary path has the name of `path` in a folder of its own.

    All files written to that folder take their places beside `path`, and `path` comes last.
    """
    target = Path(path).resolve()
    if target.exists() and not target.is_file():
        raise InputError(f"{path}: cannot be written: it exists and is not a plain file")
    with _temporary_folder(path, target) as folder:
        yield folder / target.name
        for file in sorted(folder.iterdir(), key=lambda file: file.name == target.name):
            _set_mode(file, _mode(target.with_name(file.name)))
            os.replace(file, target.with_name(file.name))


@contextmanager
def creating_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`, which becomes `path` on success and is removed on any failure.

    Folders above it that are missing are made. Raises `InputError` that names `path` when it cannot be written, or is
    there already and not an empty folder: what else may be in a folder is not ours to remove.
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
            target.rmdir()  # on Windows no folder takes the place of another, though it is empty
        os.replace(folder, target)


@contextmanager
def _temporary_folder(path: Path, target: Path) -> Iterator[Path]:
    """Beside `target`, the absolute form of `path`; removed in the end."""
    folder = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")  # not `tempfile`, as above
    with _parents(path, target):
        try:
            folder.mkdir()
            yield folder
        except OSError as error:
            if error.errno is None:  # not of the system: a library that cannot be loaded, say
                raise
            raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _parents(path: Path, target: Path) -> Iterator[None]:
    """Makes the folders above `target`, the absolute form of `path`; those that are empty after a failure go again."""
    missing = [folder for folder in target.parents if not folder.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written: the folder {target.parent} cannot be made: {error.strerror or error}"
        ) from None
    try:
        yield
    except BaseException:
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()
        raise


def _mode(target: Path) -> int:
    """The permissions of the file `target`, or, if there is none, of a new file in its place."""
    try:
        return stat.S_IMODE(target.stat().st_mode)
    except FileNotFoundError:
        return _mode_of_new_files(target.parent)


def _mode_of_new_files(folder: Path) -> int:
    """Seen from one that is made: the umask can only be read by changing it, for all threads."""
    probe = folder / f".{secrets.token_hex(8)}.tmp"
    try:
        probe.touch()
        return stat.S_IMODE(probe.stat().st_mode)
    finally:
        probe.unlink(missing_ok=True)


def _set_mode(file: Path, mode: int) -> None:
    """Only where it is another: some file systems have no permissions to change."""
    if stat.S_IMODE(file.stat().st_mode) != mode:
        file.chmod(mode)


def write_text(path: Path, text: str) -> None:
    """UTF-8 text to `path`, whole or not at all; errors are those of `replacing`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """`value` as indented JSON at `path`, whole or not at all."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_text(path, text)
