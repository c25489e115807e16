"""What commands show on a terminal: progress, tables, sizes. rich is imported when there is something to show."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from ..progress import Progress


def say(message: str) -> None:
    """A line on standard error, under the name of the program."""
    print(f"w2v-compress: {' '.join(message.split())}", file=sys.stderr)


@contextmanager
def warnings_said() -> Iterator[None]:
    """What is warned of, as a line on standard error each."""
    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = lambda message, *_, **__: say(str(message))
        yield


@contextmanager
def progress_bar(title: str) -> Iterator[Progress]:
    """Draw a progress bar on standard error if that is a terminal; yields the function that updates it."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def print_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """A table on standard output; without any column name it has no head."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(*map(escape, columns), title=escape(title), show_header=any(columns))
    for row in rows:
        table.add_row(*map(escape, row))
    Console().print(table)
