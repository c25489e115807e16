"""Helpers that choose the compression point from the command-line options."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..errors import InputError, prefixed
from ..evaluation.report import compute_device
from ..runtime.engines.names import EngineName
from ..runtime.precision import Precision
from .console import print_message, printing_warnings

if TYPE_CHECKING:
    from ..model_file.sweep import Sweep, SweptPoint
    from ..nn.compression import CompressionPoint
    from ..runtime.engines.engine import Engine
    from ..runtime.recognizer import Recognizer


def load_at_point(
    model: Path,
    *,
    point: str | None,
    budget_rtf: float | None,
    max_wer_increase: float | None,
    strict: bool,
    precision: Precision,
    engine: EngineName,
    device: str,
    threads: int | None,
    streams: int,
    cache: bool,
) -> "tuple[Recognizer, CompressionPoint]":
    """Load the recognizer in `model`, and choose the compression point from the options.

    If the stored sweep chooses the point, the choice is printed on standard error, and `auto` is the precision of the
    sweep.

    Args:
        model: The model file.
        point: Value of `--point`.
        budget_rtf: Value of `--budget-rtf`: choose the most accurate point with at most this real-time factor.
        max_wer_increase: Value of `--max-wer-increase`, in percentage points: choose the fastest point within it.
        strict: Reject a point that the model was not trained for.
        precision: Value of `--precision`.
        engine: Value of `--engine`.
        device: Value of `--device`.
        threads: Value of `--threads`.
        streams: Number of utterances to compute at a time.
        cache: Value of `--cache`.

    Raises:
        typer.BadParameter: More than one option chooses a point.
        InputError: The model or the point is invalid, or the stored sweep is missing, has another precision or no
            point within the limit.
    """
    from ..model_file.tensor_file import read_header
    from ..runtime.recognizer import Recognizer

    if sum(option is not None for option in (point, budget_rtf, max_wer_increase)) > 1:
        raise typer.BadParameter("give one of --point, --budget-rtf and --max-wer-increase")
    from_sweep = budget_rtf is not None or max_wer_increase is not None
    if from_sweep and precision == "auto" and (sweep := read_header(model).sweep) is not None:
        precision = sweep.precision  # type: ignore[assignment]
    recognizer = Recognizer.load(
        model, engine=engine, precision=precision, device=device, threads=threads, streams=streams, cache=cache
    )
    if not from_sweep:
        return recognizer, checked_point(recognizer, point, strict)
    with prefixed(model):
        swept = _choose_from_sweep(recognizer, budget_rtf, max_wer_increase)
    return recognizer, checked_point(recognizer, swept.point, strict)


def streams_for(streams: int | None, utterances: int, threads: int | None) -> int:
    """Return the number of utterances to compute at a time: `streams`, or as many as threads for several utterances."""
    from ..cores import available_cores

    if streams is not None:
        return streams
    return min(utterances, threads or available_cores())


def _choose_from_sweep(
    recognizer: "Recognizer", budget_rtf: float | None, max_wer_increase: float | None
) -> "SweptPoint":
    """Choose the point of the stored sweep that the limit allows, and print it on standard error."""
    stored = recognizer.header.sweep
    if stored is None:
        raise InputError(
            "no sweep is stored: run `w2v-compress sweep MODEL DATA --save`, or choose a point with --point"
        )
    if stored.precision != recognizer.engine.precision:
        raise InputError(
            f"the stored sweep was measured in {stored.precision}, but the model runs in {recognizer.engine.precision}"
        )
    if budget_rtf is not None:
        swept = stored.within_budget(budget_rtf)
        _warn_of_another_machine(stored, recognizer.engine)
    else:
        assert max_wer_increase is not None
        swept = stored.within_increase(max_wer_increase / 100)
    found = f"WER {100 * swept.wer:.2f}% on {stored.subset}, real-time factor {swept.real_time_factor:.4f}"
    print_message(f"point {swept.point}: {found} in the stored sweep")
    return swept


def _warn_of_another_machine(stored: "Sweep", engine: "Engine") -> None:
    """Print a message if the sweep was measured on another machine than this one."""
    from ..evaluation.machine import describe_engine

    here, there = machine_name(describe_engine(engine)), machine_name(stored.machine)
    if here != there:
        print_message(f"the stored sweep was measured on {there}; times differ on {here}")


def checked_point(recognizer: "Recognizer", point: "CompressionPoint | str | None", strict: bool) -> "CompressionPoint":
    """Call `Recognizer.checked_point`, and print its warning as one line on standard error."""
    with printing_warnings():
        return recognizer.checked_point(point, strict=strict)


def machine_name(machine: Mapping[str, Any]) -> str:
    """Name what times depend on: the GPU, or the processor and number of threads, and the engine with its version."""
    engine = machine.get("engine", "torch")
    return f"{compute_device(machine)}, {engine} {machine.get(engine)}"
