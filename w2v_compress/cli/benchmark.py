"""The verb `benchmark`."""

from pathlib import Path
from typing import Annotated

import typer

from .console import print_lines, print_message, print_table, progress_bar
from .options import JsonOption, ThreadsOption, plot_option, points_option, repeats_option, seed_option


def benchmark(
    model: Annotated[
        Path | None,
        typer.Argument(
            metavar="[MODEL]", help="Model file (.safetensors), not int8, written by `w2v-compress export`."
        ),
    ] = None,
    architecture: Annotated[
        str | None, typer.Option(metavar="NAME", help="Measure random weights of this architecture instead of MODEL.")
    ] = None,
    peers: Annotated[
        str,
        typer.Option(metavar="all|none|NAME,...", help="Other runtimes to compare with; an unknown name lists them."),
    ] = "all",
    points: Annotated[str | None, points_option("the model's own point")] = None,
    seconds: Annotated[
        str, typer.Option(metavar="X,...", help="Seconds of each recording to run on its own; empty for none.")
    ] = "2,10,30",
    batch: Annotated[
        str, typer.Option(metavar="X,...", help="Seconds of each recording of one batch; empty for no batch.")
    ] = "1,2,3,4,5,6,8,10",
    audio: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Recording to run, repeated to reach each length (default: noise)."),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Compare times with transformers in fp32 with random weights of this architecture."
        ),
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            metavar="DATA",
            help="Folder of manifests written by `prepare`, to calibrate int8 on (default: audio like that to run).",
        ),
    ] = None,
    subset: Annotated[str, typer.Option(metavar="NAME", help="Name of the manifest of --calibrate.")] = "train",
    utterances: Annotated[
        int, typer.Option(metavar="N", help="Number of utterances of --calibrate to draw, at most 300.")
    ] = 128,
    busy: Annotated[
        int,
        typer.Option(metavar="N", min=0, help="Number of other processes that compute without pause."),
    ] = 0,
    threads: ThreadsOption = None,
    repeats: Annotated[int, repeats_option("runtime", at_least=9)] = 9,
    seed: Annotated[int, seed_option("weights, noise and the choice of utterances")] = 0,
    json_file: JsonOption = None,
    plot_file: Annotated[Path | None, plot_option("the times")] = None,
) -> None:
    """Compare this runtime with others: time, memory, start-up time and output error.

    Each runtime runs in its own process; the runs are interleaved.
    """
    from ..benchmark import report as benchmark_tables
    from ..benchmark.plan import CalibrationData, Plan
    from ..benchmark.run import benchmark as measure
    from ..cores import available_cores
    from ..evaluation.plots import require_matplotlib
    from ..files import write_json
    from ..nn.compression import parse_points

    if (model is None) == (architecture is None):
        raise typer.BadParameter("give either MODEL or --architecture", param_hint="MODEL")
    if plot_file:
        require_matplotlib()
    plan = Plan(
        points=parse_points((points or "").split()),
        seconds=_lengths(seconds, "--seconds"),
        batch=_lengths(batch, "--batch"),
        repeats=repeats,
        threads=threads or available_cores(),
        seed=seed,
        calibration=CalibrationData(folder=calibrate, subset=subset, utterances=utterances) if calibrate else None,
        busy=busy,
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
            warn=print_message,
        )
    for table in benchmark_tables.tables(report):
        print_table(*table)
    print_lines(benchmark_tables.notes(report))
    if json_file:
        write_json(json_file, report)
    if plot_file:
        benchmark_tables.plot(report, plot_file)
    if any(row["error"] for group in report["groups"] for row in group["runtimes"]):
        raise typer.Exit(1)


def _lengths(text: str, option: str) -> tuple[float, ...]:
    """Parse seconds that are separated by commas."""
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise typer.BadParameter(f"{text!r} must be seconds, separated by commas", param_hint=option) from None
