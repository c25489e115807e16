"""Helpers that choose the compression point from the command-line options."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from ..errors import InputError, prefixed
from .console import print_message, printing_warnings


def chosen_point(
    recognizer: Any,
    model: Path,
    point: str | None,
    budget_rtf: float | None,
    max_wer_increase: float | None,
    strict: bool,
) -> Any:
    """Return the compression point that the options choose, and print how it was chosen on standard error.

    Args:
        recognizer: The loaded recognizer.
        model: Path of its model file, for messages.
        point: Value of `--point`.
        budget_rtf: Value of `--budget-rtf`: the most accurate point with at most this real-time factor.
        max_wer_increase: Value of `--max-wer-increase`: the fastest point within so many percentage points of WER.
        strict: Reject a point that the model was not trained for.

    Raises:
        typer.BadParameter: More than one option chooses a point.
        InputError: The point is invalid, or the stored sweep is missing, has another precision or no such point.
    """
    if sum(option is not None for option in (point, budget_rtf, max_wer_increase)) > 1:
        raise typer.BadParameter("give one of --point, --budget-rtf and --max-wer-increase")
    if budget_rtf is None and max_wer_increase is None:
        return checked_point(recognizer, point, strict)
    stored = recognizer.header.sweep
    if stored is None:
        raise InputError(
            f"{model}: no sweep is stored: run `w2v-compress sweep MODEL DATA --save`, or choose a point with --point"
        )
    if stored.precision != recognizer.precision:
        raise InputError(
            f"{model}: the stored sweep was measured in {stored.precision}, but the model runs in "
            f"{recognizer.precision}"
        )
    with prefixed(model):
        if max_wer_increase is not None:
            swept = stored.within_increase(max_wer_increase / 100)
        else:
            swept = stored.within_budget(budget_rtf)
            _warn_of_another_machine(stored, str(recognizer.device))
    found = f"WER {100 * swept.wer:.2f}% on {stored.subset}, real-time factor {swept.real_time_factor:.4f}"
    print_message(f"point {swept.point}: {found} in the stored sweep")
    return checked_point(recognizer, swept.point, strict)


def swept_precision(model: Path, precision: Any) -> Any:
    """Return `precision`, or if it is `auto`, the precision of the stored sweep, whose figures choose the point."""
    from ..model_file.storage import read_header

    sweep = read_header(model).sweep
    return sweep.precision if precision == "auto" and sweep is not None else precision


def _warn_of_another_machine(stored: Any, device: str) -> None:
    from ..evaluation.machine import describe_machine

    here, there = machine_name(describe_machine(device)), machine_name(stored.machine)
    if here != there:
        print_message(f"the stored sweep was measured on {there}; times differ on {here}")


def checked_point(recognizer: Any, point: Any, strict: bool) -> Any:
    """Call `Recognizer.checked_point`, and print its warning as one line on standard error."""
    with printing_warnings():
        return recognizer.checked_point(point, strict=strict)


def machine_name(machine: Mapping[str, Any]) -> str:
    """Name what times depend on: the GPU, or the processor and number of threads, and the version of torch."""
    processor = machine.get("gpu") or f"{machine.get('processor')}, {machine.get('threads')} threads"
    return f"{processor}, torch {machine.get('torch')}"
