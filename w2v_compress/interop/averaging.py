"""Selecting the weights of a training run to export: one checkpoint, its moving average, or a mean of several."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import InputError

BY_UPDATE = re.compile(r"checkpoint_\d+_(\d+)\.pt")
BY_EPOCH = re.compile(r"checkpoint(\d+)\.pt")
"""File names of the checkpoints that fairseq numbers: checkpoint_EPOCH_UPDATE.pt and checkpointEPOCH.pt."""


def last_checkpoints(path: Path, count: int) -> list[Path]:
    """Return `path`, a checkpoint that fairseq numbered, and the `count` - 1 before it in its folder, newest first.

    If `path` is a folder, return its `count` newest checkpoints, numbered by update or, if there are none, by epoch.
    Raises `InputError` if there are fewer or the name of `path` has no number.
    """
    folder = path if path.is_dir() else path.parent
    names = [file.name for file in folder.iterdir()] if path.is_dir() else [path.name]
    kind = next((kind for kind in (BY_UPDATE, BY_EPOCH) if any(map(kind.fullmatch, names))), None)
    if kind is None:
        raise InputError(
            f"{path}: to average {count} checkpoints, give one that fairseq numbered (checkpoint_EPOCH_UPDATE.pt or "
            f"checkpointEPOCH.pt), the folder that holds them, or all {count} by name"
        )
    if not path.exists():
        raise InputError(f"{path}: no such file")
    numbers = {int(match[1]): file for file in folder.iterdir() if (match := kind.fullmatch(file.name))}
    newest = max(numbers) if path.is_dir() else next(number for number in numbers if numbers[number] == path)
    found = sorted((number for number in numbers if number <= newest), reverse=True)
    if len(found) < count:
        raise InputError(f"{path}: cannot average {count} checkpoints: there are {len(found)} up to this one")
    return [numbers[number] for number in found[:count]]


def weights(checkpoint: Mapping[str, Any], *, ema: bool) -> dict[str, Tensor]:
    """Return the tensors of the model in a checkpoint or, with `ema`, their exponential moving average.

    The average is in fp32 if fairseq stored it so. Raises `InputError` if the checkpoint has none.
    """
    if not ema:
        return dict(checkpoint["model"])
    extra = checkpoint.get("extra_state")
    extra = extra if isinstance(extra, Mapping) else {}
    average = extra.get("ema")
    if not isinstance(average, Mapping):
        raise InputError("it holds no moving average of the weights; train with ema.store_ema=true to store one")
    exact = extra.get("ema_fp32_params")
    return {**average, **(exact if isinstance(exact, Mapping) else {})}


def mean(states: Sequence[Mapping[str, Tensor]], names: Sequence[object]) -> dict[str, Tensor]:
    """Return the mean of each floating-point tensor over `states` in fp32; others are those of the first state.

    Raises `InputError` that names the state, by `names`, whose tensors differ from those of the first in name or shape.
    """
    first, *others = states
    total = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in first.items()}
    for state, name_of_state in zip(others, names[1:], strict=True):
        for name in sorted({*total, *state}):
            if name not in total or name not in state or state[name].shape != total[name].shape:
                raise InputError(f"{name_of_state}: cannot be averaged with {names[0]}: the tensor `{name}` differs")
            if total[name].is_floating_point():
                total[name] = total[name] + state[name]
    return {name: tensor / len(states) if tensor.is_floating_point() else tensor for name, tensor in total.items()}
