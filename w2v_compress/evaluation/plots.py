"""Plots as PNG files, drawn with matplotlib (the pip extra `plot`)."""

from pathlib import Path
from typing import Any

from ..extras import require
from ..files import replacing


def require_matplotlib() -> Any:
    """Return matplotlib's pyplot with a backend that needs no display.

    Raises `InputError` with the command that installs matplotlib when it is missing.
    """
    matplotlib = require("--plot", "plot", "matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure at `path` as PNG, completely or not at all, and close it."""
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    require_matplotlib().close(figure)
