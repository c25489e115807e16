"""Terminal output of the verbs: messages, warnings, progress bars and tables. Imports rich on demand."""

import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from ..errors import shown
from ..progress import Progress

MAX_MESSAGE = 2000
"""Longest printed message, in characters; longer ones lose their middle."""


def print_message(message: str) -> None:
    """Print `message` as one line on standard error, after the name of the program."""
    line = shown(" ".join(message.split()))
    if len(line) > MAX_MESSAGE:
        line = f"{line[: MAX_MESSAGE // 2]} ... {line[-MAX_MESSAGE // 2 :]}"
    print(f"w2v-compress: {line}", file=sys.stderr)


def print_lines(lines: Iterable[str]) -> None:
    """Print lines on standard output, with control characters escaped."""
    for line in lines:
        print(shown(line))


@contextmanager
def printing_warnings() -> Iterator[None]:
    """Print each UserWarning raised inside the context as one line on standard error."""
    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = lambda message, *_, **__: print_message(str(message))
        yield


@contextmanager
def progress_bar(title: str) -> Iterator[Progress]:
    """Draw a progress bar on standard error if it is a terminal; yield the callback that updates it."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def print_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print a table on standard output; the header is omitted if all column names are empty."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(*(escape(shown(column)) for column in columns), title=escape(shown(title)), show_header=any(columns))
    for row in rows:
        table.add_row(*(escape(shown(cell)) for cell in row))
    Console().print(table)
