"""Which compression point to run at, from the options that choose one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from ..errors import InputError
from .console import say, warnings_said


def chosen_point(
    recognizer: Any,
    model: Path,
    point: str | None,
    budget_rtf: float | None,
    max_wer_increase: float | None,
    strict: bool,
) -> Any:
    """The point that the options ask for; what there is to say of it goes to standard error, a line each."""
    if sum(option is not None for option in (point, budget_rtf, max_wer_increase)) > 1:
        raise typer.BadParameter("give one of --point, --budget-rtf and --max-wer-increase")
    if budget_rtf is None and max_wer_increase is None:
        return checked_point(recognizer, point, strict)
    stored = recognizer.header.sweep
    if stored is None:
        raise InputError(
            f"{model}: no sweep is stored to choose a point by: run `w2v-compress sweep MODEL DATA --save`, "
            "or name one with --point"
        )
    if stored.precision != recognizer.precision:
        raise InputError(
            f"{model}: its sweep is of {stored.precision}, and the model is to run in {recognizer.precision}"
        )
    try:
        if max_wer_increase is not None:
            swept = stored.within_increase(max_wer_increase / 100)
        else:
            swept = stored.within_budget(budget_rtf)
            _warn_of_another_machine(stored, str(recognizer.device))
    except InputError as error:
        raise InputError(f"{model}: {error}") from None
    found = f"WER {100 * swept.wer:.2f}% on {stored.subset}, real-time factor {swept.real_time_factor:.4f}"
    say(f"point {swept.point}: {found} in the stored sweep")
    return checked_point(recognizer, swept.point, strict)


def swept_precision(model: Path, precision: Any) -> Any:
    """Where the precision is left to us, that of the stored sweep, whose figures choose the point."""
    from ..model_file.storage import read_header

    sweep = read_header(model).sweep
    return sweep.precision if precision == "auto" and sweep is not None else precision


def _warn_of_another_machine(stored: Any, device: str) -> None:
    from ..evaluation.machine import describe_machine

    here, there = place(describe_machine(device)), place(stored.machine)
    if here != there:
        say(f"the sweep was measured on {there}; here times differ, on {here}")


def checked_point(recognizer: Any, point: Any, strict: bool) -> Any:
    """`Recognizer.checked_point`, with its warning as a line on standard error."""
    with warnings_said():
        return recognizer.checked_point(point, strict=strict)


def place(machine: Mapping[str, Any]) -> str:
    """What times depend on."""
    processor = machine.get("gpu") or f"{machine.get('processor')}, {machine.get('threads')} threads"
    return f"{processor}, torch {machine.get('torch')}"
