"""The Typer application of `w2v-compress` and its entry point."""

import io
import signal
import sys
import threading
from types import FrameType
from typing import Annotated

import typer

from ..errors import InputError
from .benchmark import benchmark
from .console import print_message
from .evaluate import evaluate
from .export import export, import_folder
from .info import info
from .merge import merge
from .models import models
from .paths import config_dir, user_dir
from .prepare import prepare
from .quantize import quantize
from .search import search
from .sweep import sweep
from .tables import tables
from .train import train
from .transcribe import transcribe

app = typer.Typer(
    name="w2v-compress",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(tables, name="tables")


def main() -> None:
    """Run the command line.

    Invalid input prints a one-line error and exits with status 1; wrong usage exits with status 2, Ctrl-C with 130.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _interrupt)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a transcript may not be in the terminal's encoding
    try:
        app()
    except _Interrupted:
        sys.exit(130)
    except InputError as error:
        message = str(error)
    except OSError as error:
        message = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    print_message(message)
    sys.exit(1)


class _Interrupted(BaseException):
    """Ctrl-C. click would catch a KeyboardInterrupt, and exit with status 1."""


def _interrupt(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second Ctrl-C ends the program at once
    raise _Interrupted


def _print_version(requested: bool) -> None:
    if requested:
        from ..version import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Compress wav2vec 2.0 speech recognizers, and run them."""


app.command("user-dir")(user_dir)
app.command("config-dir")(config_dir)
app.command()(prepare)
app.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "allow_interspersed_args": False}
)(train)
app.command()(models)
app.command()(info)
app.command()(quantize)
app.command()(export)
app.command()(transcribe)
app.command()(evaluate)
app.command()(merge)
app.command()(search)
app.command()(sweep)
app.command()(benchmark)
app.command("import")(import_folder)
