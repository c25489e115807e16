"""Packages that not every install has: the pip extras, and fairseq, which not every platform has."""

import importlib
import importlib.metadata
import importlib.util
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from .errors import InputError

DISTRIBUTION = "w2v-compress"
TRAINS_ON = "Linux on x86-64 with Python 3.11 or 3.12"
"""Where fairseq has wheels that work; the markers in setup.py say the same."""


def require(purpose: str, extra: str, *packages: str) -> ModuleType:
    """Import `packages`, which the pip extra `extra` has, for `purpose`; returns the first.

    Raises `InputError` with the command that installs what is missing or cannot be imported.
    """
    found = []
    for package in packages:
        try:
            found.append(importlib.import_module(package))
        except ImportError as error:
            raise InputError(f"{purpose} needs {package} ({error}): {install_command(extra)}") from None
    return found[0]


def install_command(extra: str) -> str:
    """The pip command for the packages of an extra: for an installed wheel, a clone, or a bare checkout."""
    try:
        requirements = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return f"pip install -e '{Path(__file__).resolve().parent.parent}[{extra}]'"
    wanted = re.compile(rf"""([^;]+);.*\bextra == ["']{extra}["']""")
    names = [match[1].strip() for line in requirements if (match := wanted.match(line))]
    return " ".join(["pip install", *(f"'{name}'" for name in names)])


def require_fairseq(purpose: str) -> None:
    """Raises `InputError`, which says how to get it, where fairseq or what it runs on is not installed."""
    for package in ("fairseq", "hydra", "omegaconf"):
        if importlib.util.find_spec(package) is None:
            trains = sys.platform == "linux" and platform.machine() == "x86_64" and sys.version_info < (3, 13)
            remedy = "pip install ve-fairseq==0.12.3 'hydra-core>=1.3.2,<1.4' 'omegaconf>=2.3,<2.4' 'editdistance>=0.8'"
            place = f"{platform.system()} on {platform.machine()} with Python {platform.python_version()}"
            raise InputError(
                f"{purpose} needs {package}, which is not installed: "
                + (remedy if trains else f"there is none for {place}; use {TRAINS_ON}")
            )


@contextmanager
def hiding_broken_torchaudio() -> Iterator[None]:
    """Within, a torchaudio that is installed and cannot be imported does not stop the import of transformers.

    fairseq requires torchaudio, which nothing here needs, and whose wheels cannot be loaded beside a torch for CPUs
    alone. transformers imports it wherever it is installed.
    """
    try:
        importlib.import_module("torchaudio")
    except (ImportError, OSError, RuntimeError):
        # transformers looks only once whether it is installed: where it has looked, an empty module does no harm.
        hidden = ModuleType("torchaudio") if "transformers" in sys.modules else None
    else:
        yield
        return
    sys.modules["torchaudio"] = hidden  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["torchaudio"]
