"""Progress callbacks of long-running functions; only the command line draws them."""

from collections.abc import Callable

Progress = Callable[[float, float], object]
"""A callback `progress(done, total)`, called after each step."""


def no_progress(done: float, total: float) -> None:
    """Ignore progress."""


class Steps:
    """Counts the steps of a task that has several stages, and reports each step."""

    def __init__(self, progress: Progress, total: float) -> None:
        self.progress, self.total, self.done = progress, total, 0.0

    def step(self, count: float = 1) -> None:
        """Report `count` more steps."""
        self.done += count
        self.progress(self.done, self.total)
