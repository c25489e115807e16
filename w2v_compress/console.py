"""What commands show on a terminal: progress, tables, sizes. rich is imported when there is something to show."""

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager


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
def progress_bar(title: str, total: int) -> Iterator[Callable[[float], None]]:
    """A bar on standard error where that is a terminal; yields the function that sets how many are done."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(title, total=total)
        yield lambda done: bar.update(task, completed=done)


def print_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """A table on standard output; without any column name it has no head."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(*map(escape, columns), title=escape(title), show_header=any(columns))
    for row in rows:
        table.add_row(*map(escape, row))
    Console().print(table)


def megabytes(size: int) -> str:
    """Bytes as people read them, in millions."""
    return f"{size / 1e6:.2f} MB"
