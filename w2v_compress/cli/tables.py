"""The commands `w2v-compress tables ...`: one function a paper."""

from pathlib import Path
from typing import Annotated

import typer

from .console import print_table, progress_bar
from .options import JsonOption, SubsetOption, ThreadsOption

tables = typer.Typer(help="The papers' tables, theirs beside ours, and what was measured.", no_args_is_help=True)
MarkdownOption = Annotated[
    Path | None, typer.Option("--markdown", metavar="FILE", help="Write the tables as Markdown too.")
]


@tables.command()
def bigfoot(
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PATH",
            help="A trained model in place of a random one: large, student-12, student-4, base, or an int8 row, "
            "else made of these. May be repeated.",
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DATA", help="Manifest folder: also the WER of trained models.")
    ] = None,
    subset: SubsetOption = "test",
    seconds: Annotated[float, typer.Option(min=0.1, help="Of audio, for the times.")] = 10.0,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each model, in turns; the median counts.")] = 9,
    threads: ThreadsOption = None,
    work: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep the models there: 3.5 GB; by default they are removed.")
    ] = None,
    energy: Annotated[bool, typer.Option("--energy", help="Also energy, where the processor counts it.")] = False,
    seed: Annotated[int, typer.Option(help="Of the random weights, the audio and the bootstrap.")] = 0,
    json_file: JsonOption = None,
    markdown_file: MarkdownOption = None,
) -> None:
    """The table of "Shrinking Bigfoot" (Peng et al. 2021) beside ours: size, CPU time, WER, at full size."""
    from ..data.manifest import read_manifest
    from ..files import write_json, write_text
    from ..papers.bigfoot import measure
    from ..papers.bigfoot_table import check_table, markdown, notes, table

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
    print_table("Shrinking Bigfoot", *table(report))
    print("\n".join(notes(report)))
    print_table("What must hold", *check_table(report))
    if json_file:
        write_json(json_file, report)
    if markdown_file:
        write_text(markdown_file, markdown(report))


@tables.command()
def stochastic(
    results: Annotated[Path, typer.Argument(metavar="RESULTS.json", help="What examples/stochastic/run.py wrote.")],
    markdown_file: MarkdownOption = None,
    plot_file: Annotated[Path | None, typer.Option("--plot", metavar="PNG", help="Draw WER against time.")] = None,
) -> None:
    """The claims of "On-demand compute reduction with stochastic wav2vec 2.0" (Vyas et al. 2022), as measured."""
    from ..files import write_text
    from ..papers.stochastic import markdown, plot, read_results, terminal_tables

    report = read_results(results)
    for table in terminal_tables(report):
        print_table(*table)
    if markdown_file:
        write_text(markdown_file, markdown(report))
    if plot_file:
        plot(report, plot_file)


@tables.command()
def benchmark(
    results: Annotated[Path, typer.Argument(metavar="RESULTS.json", help="What `benchmark --json` wrote.")],
    markdown_file: MarkdownOption = None,
    plot_file: Annotated[Path | None, typer.Option("--plot", metavar="PNG", help="Draw the times.")] = None,
) -> None:
    """Our runtime against others, as measured."""
    from ..benchmark import report as benchmark_tables
    from ..files import write_text

    report = benchmark_tables.read_results(results)
    for table in benchmark_tables.tables(report):
        print_table(*table)
    print("\n".join(benchmark_tables.notes(report)))
    if markdown_file:
        write_text(markdown_file, benchmark_tables.markdown(report))
    if plot_file:
        benchmark_tables.plot(report, plot_file)
