"""The command `benchmark`: our runtime against others."""

from pathlib import Path
from typing import Annotated

import typer

from .console import print_table, progress_bar, say
from .options import JsonOption, ThreadsOption


def benchmark(
    model: Annotated[
        Path | None, typer.Argument(metavar="[MODEL]", help="A floating-point .safetensors file written by `export`.")
    ] = None,
    architecture: Annotated[
        str | None, typer.Option(metavar="NAME", help="Random weights of this architecture, in place of MODEL.")
    ] = None,
    peers: Annotated[
        str, typer.Option(metavar="all|none|NAME,...", help="The runtimes to compare with; a wrong name lists them.")
    ] = "all",
    points: Annotated[
        str | None, typer.Option(metavar="'S,Q,K ...'", help="Compression points; by default the model's own.")
    ] = None,
    seconds: Annotated[str, typer.Option(metavar="X,...", help="Lengths of audio to run alone; may be empty.")] = (
        "2,10,30"
    ),
    batch: Annotated[str, typer.Option(metavar="X,...", help="Lengths of the audio of one batch; may be empty.")] = (
        "1,2,3,4,5,6,8,10"
    ),
    audio: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Run this recording, repeated as often as it takes, not noise.")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Compare times with transformers fp32 of this architecture, random weights."),
    ] = None,
    threads: ThreadsOption = None,
    repeats: Annotated[int, typer.Option(min=9, help="Timed runs of each, in turns; the median counts.")] = 9,
    seed: Annotated[int, typer.Option(help="Of random weights and noise.")] = 0,
    json_file: JsonOption = None,
    plot_file: Annotated[Path | None, typer.Option("--plot", metavar="FILE", help="Draw the times as PNG.")] = None,
) -> None:
    """Time, memory, start-up and output error of our runtime against others, each in a process of its own, in turns."""
    from ..benchmark import report as benchmark_tables
    from ..benchmark.run import Plan
    from ..benchmark.run import benchmark as measure
    from ..cores import available_cores
    from ..evaluation.sweep import require_matplotlib
    from ..files import write_json
    from ..nn.compression import parse_points

    if (model is None) == (architecture is None):
        raise typer.BadParameter("give MODEL or --architecture, and not both", param_hint="MODEL")
    if plot_file:
        require_matplotlib()
    plan = Plan(
        points=parse_points((points or "").split()),
        seconds=_lengths(seconds, "--seconds"),
        batch=_lengths(batch, "--batch"),
        repeats=repeats,
        threads=threads or available_cores(),
        seed=seed,
    )
    with progress_bar("Measuring") as progress:
        report = measure(
            plan,
            model=model,
            architecture=architecture,
            against=against,
            peers=[name.strip() for name in peers.split(",") if name.strip() not in ("", "none")],
            recording=audio,
            progress=progress,
            say=say,
        )
    for table in benchmark_tables.tables(report):
        print_table(*table)
    print("\n".join(benchmark_tables.notes(report)))
    if json_file:
        write_json(json_file, report)
    if plot_file:
        benchmark_tables.plot(report, plot_file)
    if any(row["error"] for group in report["groups"] for row in group["runtimes"]):
        raise typer.Exit(1)


def _lengths(text: str, option: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise typer.BadParameter(f"{text!r} must be seconds, joined by commas", param_hint=option) from None
