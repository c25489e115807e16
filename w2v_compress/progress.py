"""How long-running functions report their progress; only the command line draws it."""

from collections.abc import Callable

Progress = Callable[[float, float], object]
"""progress(done, total): called whenever another step is done."""


def no_progress(done: float, total: float) -> None:
    """Ignore progress."""


class Steps:
    """Counts the steps of work that has several stages, and reports each one."""

    def __init__(self, progress: Progress, total: float) -> None:
        self.progress, self.total, self.done = progress, total, 0.0

    def step(self, count: float = 1) -> None:
        """Report `count` more steps."""
        self.done += count
        self.progress(self.done, self.total)
