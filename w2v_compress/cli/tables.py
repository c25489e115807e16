"""The verb `tables`: one command per paper, and one for benchmarks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ..evaluation.report import markdown_tables, read_tables, well_formed
from ..json_objects import read_json
from .console import print_lines, print_table, progress_bar
from .options import (
    JsonOption,
    MarkdownOption,
    SubsetOption,
    ThreadsOption,
    data_option,
    plot_option,
    repeats_option,
    seed_option,
)

tables = typer.Typer(
    help="Print the tables of the papers beside our measurements, and benchmark results.", no_args_is_help=True
)


def _printed_tables(results: Path, markdown_file: Path | None) -> bool:
    """Print the tables that a results file itself contains; return whether it contains any."""
    from ..files import write_text

    with well_formed(results):
        found = read_tables(read_json(results))
        for table in found:
            print_table(*table)
    if found and markdown_file:
        write_text(markdown_file, markdown_tables(found))
    return bool(found)


def _print_bigfoot(report: Mapping[str, Any]) -> None:
    """Print the table of the paper beside ours."""
    from ..papers.bigfoot_table import check_table, notes, table

    print_table("Shrinking Bigfoot", *table(report))
    print_lines(notes(report))
    print_table("What must hold", *check_table(report))


@tables.command()
def bigfoot(
    results: Annotated[
        Path | None,
        typer.Argument(
            metavar="RESULTS.json",
            help="Results file to print instead of measuring: of --json, or of an example.",
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PATH",
            help="Trained model file to use instead of random weights. NAME is large, student-12, student-4, base or "
            "an int8 row; int8 models are quantized from these by default. May be repeated.",
        ),
    ] = None,
    data: Annotated[Path | None, data_option("measure the WER of trained models")] = None,
    subset: SubsetOption = "test",
    seconds: Annotated[float, typer.Option(min=0.1, help="Seconds of audio to time.")] = 10.0,
    repeats: Annotated[int, repeats_option("model", at_least=1)] = 9,
    threads: ThreadsOption = None,
    work: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder to keep the model files in (3.5 GB) (default: a temporary folder)."),
    ] = None,
    energy: Annotated[
        bool, typer.Option("--energy", help="Also measure energy, if the processor has energy counters.")
    ] = False,
    seed: Annotated[int, seed_option("weights, audio and the bootstrap")] = 0,
    json_file: JsonOption = None,
    markdown_file: MarkdownOption = None,
) -> None:
    """Compare the table of "Shrinking Bigfoot" (Peng et al. 2021) with ours.

    Measures size, CPU time and, with --model and --data, WER of models of the original size.
    """
    from ..data.manifest import read_manifest
    from ..files import write_json, write_text
    from ..papers.bigfoot import measure
    from ..papers.bigfoot_table import markdown, read_results

    if results is not None:
        if model or data or json_file:
            raise typer.BadParameter("excludes --model, --data and --json", param_hint="RESULTS.json")
        if not _printed_tables(results, markdown_file):
            report = read_results(results)
            with well_formed(results):
                _print_bigfoot(report)
                if markdown_file:
                    write_text(markdown_file, markdown(report))
        return
    given = {}
    for pair in model or []:
        name, separator, path = pair.partition("=")
        if not separator:
            raise typer.BadParameter(f"{pair!r} must be NAME=PATH", param_hint="--model")
        given[name] = Path(path)
    with progress_bar("Measuring") as progress:
        report = measure(
            given=given,
            utterances=read_manifest(data, subset) if data else [],
            work=work,
            seconds=seconds,
            repeats=repeats,
            threads=threads,
            measure_energy=energy,
            seed=seed,
            progress=progress,
        )
    _print_bigfoot(report)
    if json_file:
        write_json(json_file, report)
    if markdown_file:
        write_text(markdown_file, markdown(report))


@tables.command()
def stochastic(
    results: Annotated[
        Path, typer.Argument(metavar="RESULTS.json", help="Results file written by a script of examples/stochastic.")
    ],
    markdown_file: MarkdownOption = None,
    plot_file: Annotated[Path | None, plot_option("WER against time")] = None,
) -> None:
    """Print measurements of the claims of stochastic wav2vec 2.0.

    The paper is "On-demand compute reduction with stochastic wav2vec 2.0" (Vyas et al. 2022).
    """
    from ..files import write_text
    from ..papers.stochastic import markdown, plot, read_results, terminal_tables

    if plot_file is None and _printed_tables(results, markdown_file):
        return
    report = read_results(results)
    with well_formed(results):
        for table in terminal_tables(report):
            print_table(*table)
        if markdown_file:
            write_text(markdown_file, markdown(report))
        if plot_file:
            plot(report, plot_file)


@tables.command()
def benchmark(
    results: Annotated[
        Path, typer.Argument(metavar="RESULTS.json", help="Results file written by `w2v-compress benchmark --json`.")
    ],
    markdown_file: MarkdownOption = None,
    plot_file: Annotated[Path | None, plot_option("the times")] = None,
) -> None:
    """Print the comparison with other runtimes measured by `benchmark`."""
    from ..benchmark import report as benchmark_tables
    from ..files import write_text

    report = benchmark_tables.read_results(results)
    with well_formed(results):
        for table in benchmark_tables.tables(report):
            print_table(*table)
        print_lines(benchmark_tables.notes(report))
        if markdown_file:
            write_text(markdown_file, benchmark_tables.markdown(report))
        if plot_file:
            benchmark_tables.plot(report, plot_file)
