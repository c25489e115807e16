"""Which weights of a training run to export: those of a checkpoint, their moving average, or the mean over several."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import InputError

BY_UPDATE = re.compile(r"checkpoint_\d+_(\d+)\.pt")
BY_EPOCH = re.compile(r"checkpoint(\d+)\.pt")
"""How fairseq names the checkpoints that it keeps, those of an update after the epoch."""


def numbered_before(path: Path, count: int) -> list[Path]:
    """`path`, one of fairseq's numbered checkpoints, and the `count` - 1 before it in its folder, newest first.

    Where `path` is a folder, the newest that are there: by updates, or, if none is numbered so, by epochs. Raises
    `InputError` when there are fewer or `path` has no number.
    """
    folder = path if path.is_dir() else path.parent
    names = [file.name for file in folder.iterdir()] if path.is_dir() else [path.name]
    kind = next((kind for kind in (BY_UPDATE, BY_EPOCH) if any(map(kind.fullmatch, names))), None)
    if kind is None:
        raise InputError(
            f"{path}: to average {count} checkpoints, give one that fairseq numbered, checkpoint_EPOCH_UPDATE.pt or "
            "checkpointEPOCH.pt, or their folder, or name each"
        )
    if not path.exists():
        raise InputError(f"{path}: no such file")
    numbers = {int(match[1]): file for file in folder.iterdir() if (match := kind.fullmatch(file.name))}
    newest = max(numbers) if path.is_dir() else next(number for number in numbers if numbers[number] == path)
    found = sorted((number for number in numbers if number <= newest), reverse=True)
    if len(found) < count:
        raise InputError(f"{path}: {count} checkpoints are to be averaged, and there are {len(found)} up to this one")
    return [numbers[number] for number in found[:count]]


def weights(checkpoint: Mapping[str, Any], *, ema: bool) -> dict[str, Tensor]:
    """The tensors of the model in a checkpoint, or, with `ema`, their moving average, in fp32 where fairseq kept that.

    Raises `InputError` when there is no moving average.
    """
    if not ema:
        return dict(checkpoint["model"])
    extra = checkpoint.get("extra_state")
    extra = extra if isinstance(extra, Mapping) else {}
    average = extra.get("ema")
    if not isinstance(average, Mapping):
        raise InputError("it holds no moving average of the weights; training keeps one with ema.store_ema=true")
    exact = extra.get("ema_fp32_params")
    return {**average, **(exact if isinstance(exact, Mapping) else {})}


def mean(states: Sequence[Mapping[str, Tensor]], names: Sequence[object]) -> dict[str, Tensor]:
    """The mean of each tensor over `states`, in fp32; what is not floating point is that of the first.

    Raises `InputError`, with the name of the state, where one has other tensors than the first.
    """
    first, *others = states
    total = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in first.items()}
    for state, called in zip(others, names[1:], strict=True):
        for name in sorted({*total, *state}):
            if name not in total or name not in state or state[name].shape != total[name].shape:
                raise InputError(f"{called}: cannot be averaged with {names[0]}: the tensor `{name}` differs")
            if total[name].is_floating_point():
                total[name] = total[name] + state[name]
    return {name: tensor / len(states) if tensor.is_floating_point() else tensor for name, tensor in total.items()}
