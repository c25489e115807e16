"""The Typer application of `w2v-compress` and its entry point."""

import sys
from typing import Annotated

import typer

from ..errors import InputError
from .benchmark import benchmark
from .console import print_message
from .evaluate import evaluate
from .export import export, import_folder
from .info import info
from .paths import config_dir, user_dir
from .prepare import prepare
from .quantize import quantize
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

    Invalid input prints a one-line error and exits with status 1; wrong usage exits with status 2.
    """
    try:
        app()
    except InputError as error:
        message = str(error)
    except OSError as error:
        message = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    print_message(message)
    sys.exit(1)


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
app.command()(info)
app.command()(quantize)
app.command()(export)
app.command()(transcribe)
app.command()(evaluate)
app.command()(sweep)
app.command()(benchmark)
app.command("import")(import_folder)
