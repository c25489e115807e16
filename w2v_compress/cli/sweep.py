"""The verb `sweep`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from .console import print_table, progress_bar
from .options import (
    BatchSizeOption,
    DeviceOption,
    JsonOption,
    ModelArgument,
    PrecisionOption,
    StrictOption,
    SubsetOption,
    ThreadsOption,
)
from .points import checked_point, place


def sweep(
    model: ModelArgument,
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Manifest folder written by `prepare`.")],
    subset: SubsetOption = "test",
    points: Annotated[
        str | None, typer.Option(metavar="'S,Q,K ...'", help="These points; by default all that it was trained for.")
    ] = None,
    strict: StrictOption = False,
    repeats: Annotated[int, typer.Option(min=9, help="Timed runs of each point, in turns; the median counts.")] = 9,
    timed_seconds: Annotated[float, typer.Option(min=0, help="Of the subset's audio, for the times.")] = 30.0,
    precision: PrecisionOption = "auto",
    device: DeviceOption = "cpu",
    threads: ThreadsOption = None,
    batch_size: BatchSizeOption = 8,
    seed: Annotated[int, typer.Option(help="Of the bootstrap and of what is timed.")] = 0,
    save: Annotated[bool, typer.Option("--save", help="Store it in MODEL, for budgets to choose by.")] = False,
    plot_file: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Draw WER against time as PNG.")
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Measure WER, time and multiply-accumulates of a model at its compression points, side by side."""
    from ..data.manifest import read_manifest
    from ..evaluation import sweep as report_of
    from ..files import write_json
    from ..model_file.storage import store_sweep
    from ..nn.compression import parse_points
    from ..runtime.recognizer import Recognizer

    if plot_file:
        report_of.require_matplotlib()
    utterances = read_manifest(data, subset)
    recognizer = Recognizer.load(model, precision=precision, device=device, threads=threads)
    asked = [checked_point(recognizer, point, strict) for point in parse_points((points or "").split())]
    with progress_bar("Sweeping") as progress:
        report = report_of.sweep(
            recognizer,
            utterances,
            asked,
            batch_size=batch_size,
            repeats=repeats,
            timed_seconds=timed_seconds,
            seed=seed,
            progress=progress,
        )
    print_table(f"{model} on {subset}", *report_of.rate_table(report))
    print_table("Cost", *report_of.cost_table(report))
    print("\n".join(report_of.notes(report)))
    if save:
        store_sweep(model, report.to_store(subset))
    if plot_file:
        report_of.plot(report, plot_file, f"{model.name} on {subset}")
    if json_file:
        write_json(json_file, {"model": str(model), "data": str(data), "subset": subset} | report.to_dict())


def print_stored_sweep(sweep: Any) -> None:
    """What a model file keeps of a sweep, as a table."""
    rows = [
        [
            str(swept.point),
            f"{100 * swept.wer:.2f}%",
            f"{swept.real_time_factor:.4f}",
            f"{1e-9 * swept.macs_per_second:.2f}",
        ]
        for swept in sweep.points
    ]
    title = f"Sweep on {sweep.subset}, {sweep.precision}: {place(sweep.machine)}"
    print_table(title, ["point", "WER", "real-time factor", "GMAC per s"], rows)
