"""Import optional packages: those of the pip extras, and fairseq, which is not available on every platform."""

import importlib
import importlib.metadata
import importlib.util
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from .errors import InputError

DISTRIBUTION = "w2v-compress"
TRAINING_PLATFORM = "Linux on x86-64 with Python 3.11 or 3.12"
"""The platforms with working wheels of fairseq; must agree with the environment markers in setup.py."""


def require(purpose: str, extra: str, *packages: str) -> ModuleType:
    """Import `packages` of the pip extra `extra`, and return the first one.

    Args:
        purpose: What the packages are needed for; starts the error message.
        extra: The name of the pip extra in setup.py.
        *packages: Names of the modules to import.

    Raises:
        InputError: A package is missing or cannot be imported. The message gives the command that installs the extra.
    """
    found = []
    for package in packages:
        try:
            found.append(importlib.import_module(package))
        except ImportError as error:
            raise InputError(f"{purpose} needs {package} ({error}): {install_command(extra)}") from None
    return found[0]


def install_command(extra: str) -> str:
    """Return the pip command that installs the packages of an extra, for a wheel, an editable install or a checkout."""
    try:
        requirements = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return f"pip install -e '{Path(__file__).resolve().parent.parent}[{extra}]'"
    pattern = re.compile(rf"""([^;]+);.*\bextra == ["']{extra}["']""")
    names = [match[1].strip() for line in requirements if (match := pattern.match(line))]
    return " ".join(["pip install", *(f"'{name}'" for name in names)])


def require_fairseq(purpose: str) -> None:
    """Check that fairseq and its configuration packages are installed.

    Raises:
        InputError: One of them is missing. The message says how to install it, or which platforms it is available on.
    """
    for package in ("fairseq", "hydra", "omegaconf"):
        if importlib.util.find_spec(package) is None:
            available = sys.platform == "linux" and platform.machine() == "x86_64" and sys.version_info < (3, 13)
            command = (
                "pip install ve-fairseq==0.12.3 'hydra-core>=1.3.2,<1.4' 'omegaconf>=2.3,<2.4' 'editdistance>=0.8'"
            )
            place = f"{platform.system()} on {platform.machine()} with Python {platform.python_version()}"
            raise InputError(
                f"{purpose} needs {package}, which is not installed: "
                + (command if available else f"there are no wheels for {place}; use {TRAINING_PLATFORM}")
            )


@contextmanager
def hiding_broken_torchaudio() -> Iterator[None]:
    """Hide a torchaudio that cannot be imported, so that transformers can be imported inside the context.

    fairseq requires torchaudio, although nothing here uses it, and its wheels cannot be loaded together with a
    CPU-only torch. transformers imports torchaudio whenever it is installed.
    """
    try:
        importlib.import_module("torchaudio")
    except (ImportError, OSError, RuntimeError):
        # transformers checks only once whether torchaudio is installed. After that check, None would make its imports
        # of torchaudio fail, but an empty module does not.
        hidden = ModuleType("torchaudio") if "transformers" in sys.modules else None
    else:
        yield
        return
    with replacing_modules({"torchaudio": hidden}):
        yield


@contextmanager
def replacing_modules(modules: Mapping[str, ModuleType | None]) -> Iterator[None]:
    """Import `modules` by their names inside the context, none of which is imported yet; None is not installed."""
    sys.modules.update(modules)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]
