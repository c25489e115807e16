"""The verb `sweep`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import print_lines, print_table, progress_bar
from .options import (
    BatchSizeOption,
    DataArgument,
    DeviceOption,
    EngineOption,
    JsonOption,
    ModelArgument,
    PrecisionOption,
    StrictOption,
    SubsetOption,
    ThreadsOption,
    plot_option,
    points_option,
    repeats_option,
    seed_option,
)
from .points import checked_point, machine_name

if TYPE_CHECKING:
    from ..model_file.sweep import Sweep


def sweep(
    model: ModelArgument,
    data: DataArgument,
    subset: SubsetOption = "test",
    points: Annotated[str | None, points_option("all points that MODEL was trained for")] = None,
    strict: StrictOption = False,
    repeats: Annotated[int, repeats_option("point", at_least=9)] = 9,
    timed_seconds: Annotated[float, typer.Option(min=0, help="Seconds of audio of the subset to time.")] = 30.0,
    precision: PrecisionOption = "auto",
    engine: EngineOption = "auto",
    device: DeviceOption = "cpu",
    threads: ThreadsOption = None,
    batch_size: BatchSizeOption = 8,
    seed: Annotated[int, seed_option("the bootstrap and the choice of timed audio")] = 0,
    save: Annotated[
        bool, typer.Option("--save", help="Store the results in MODEL, for --budget-rtf and --max-wer-increase.")
    ] = False,
    plot_file: Annotated[Path | None, plot_option("WER against time")] = None,
    json_file: JsonOption = None,
) -> None:
    """Measure WER, time and multiply-accumulates of a model at each of its compression points."""
    from ..data.manifest import read_manifest
    from ..evaluation.plots import require_matplotlib
    from ..evaluation.sweep import cost_table, notes, plot, rate_table
    from ..evaluation.sweep import sweep as measure
    from ..files import write_json
    from ..model_file.storage import store_sweep
    from ..nn.compression import parse_points
    from ..runtime.recognizer import Recognizer

    if plot_file:
        require_matplotlib()
    utterances = read_manifest(data, subset)
    recognizer = Recognizer.load(model, engine=engine, precision=precision, device=device, threads=threads)
    checked = [checked_point(recognizer, point, strict) for point in parse_points((points or "").split())]
    with progress_bar("Sweeping") as progress:
        report = measure(
            recognizer,
            utterances,
            checked,
            batch_size=batch_size,
            repeats=repeats,
            timed_seconds=timed_seconds,
            seed=seed,
            progress=progress,
        )
    print_table(f"{model} on {subset}", *rate_table(report))
    print_table("Cost", *cost_table(report))
    print_lines(notes(report))
    if save:
        store_sweep(model, report.to_store(subset))
    if plot_file:
        plot(report, plot_file, f"{model.name} on {subset}")
    if json_file:
        write_json(json_file, {"model": str(model), "data": str(data), "subset": subset} | report.to_dict())


def print_stored_sweep(sweep: "Sweep") -> None:
    """Print the sweep stored in a model file as a table."""
    rows = [
        [
            str(swept.point),
            f"{100 * swept.wer:.2f}%",
            f"{swept.real_time_factor:.4f}",
            f"{1e-9 * swept.macs_per_second:.2f}",
        ]
        for swept in sweep.points
    ]
    title = f"Sweep on {sweep.subset}, {sweep.precision}: {machine_name(sweep.machine)}"
    print_table(title, ["point", "WER", "real-time factor", "GMAC per s"], rows)
