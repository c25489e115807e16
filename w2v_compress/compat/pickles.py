"""Reading fairseq's pickles and settings without running code from them."""

import argparse
import ast
import contextlib
import functools
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np
import torch

from ..errors import InputError
from ..nn.architecture import parse_conv_layers

EVALUATED_SETTINGS = (
    "conv_feature_layers",
    "conv_aggregator_layers",
    "feature_encoder_spec",
    "override_encoder_layers",
    "wer_args",
    "adam_betas",
)
"""Settings of speech models, their data, loss and optimizer that fairseq passes to `eval`."""


def load_pickle(file: BinaryIO, map_location: Any = "cpu") -> Any:
    """`torch.load` for fairseq: of the allow-listed classes only, whatever torch's environment variables say."""
    source = getattr(file, "name", "an object sent by another process")
    try:
        with _reading_fairseq():
            state = torch.load(file, map_location=map_location, weights_only=True)
        if isinstance(state, dict):
            for setting, text in _evaluated_settings([state.get("cfg"), state.get("args")]):
                evaluate(text, f"the setting `{setting}`")
    except InputError as error:
        raise InputError(f"{source}: is refused: {error}") from None
    except Exception as error:  # a damaged or hostile file can fail in any way at all
        raise InputError(f"{source}: {_reason(error)}") from None
    return state


def _reason(error: Exception) -> str:
    refused = re.search(r"GLOBAL ([\w.]+)", str(error))
    if refused:
        return f"is refused: it needs `{refused[1]}`, which no fairseq checkpoint does and which could run code"
    detail = str(error).rpartition("WeightsUnpickler error: ")[2].strip()
    return f"is not a fairseq checkpoint, or damaged ({detail.splitlines()[0] if detail else type(error).__name__})"


def _evaluated_settings(settings: Any) -> Iterator[tuple[str, str]]:
    """The settings, nested ones included, that fairseq evaluates."""
    from omegaconf import OmegaConf

    if OmegaConf.is_config(settings):
        settings = OmegaConf.to_container(settings)
    if isinstance(settings, argparse.Namespace):
        settings = vars(settings)
    if isinstance(settings, dict):
        for name, value in settings.items():
            # An interpolation is checked when it has been resolved, by the `eval` that `apply` puts in fairseq.
            if name in EVALUATED_SETTINGS and isinstance(value, str) and "${" not in value:
                yield name, value
        settings = list(settings.values())
    if isinstance(settings, list):
        for value in settings:
            yield from _evaluated_settings(value)


def evaluate(text: str, setting: str = "a setting") -> Any:
    """`eval` for fairseq's settings: literals, and lists of convolutions joined with + and *. Runs no code."""
    with contextlib.suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return ast.literal_eval(text)
    with contextlib.suppress(InputError, AttributeError):
        return list(parse_conv_layers(text))
    raise InputError(
        f"{setting} that fairseq evaluates is {str(text)[:200]!r}; "
        "it must be a literal such as (0.9, 0.98), or a list such as [(512, 10, 5)] + [(512, 3, 2)] * 4"
    )


class _Reading(threading.local):
    """Whether this thread is reading a file of fairseq's."""

    fairseq = False


_reading = _Reading()


@contextlib.contextmanager
def _reading_fairseq() -> Iterator[None]:
    """Within, torch's restricted unpickler knows the classes of fairseq's checkpoints: in this thread alone.

    `torch.serialization.safe_globals` is for the whole process: the thread that leaves it first takes the classes from
    all others that are reading.
    """
    _reading.fairseq = True
    try:
        yield
    finally:
        _reading.fairseq = False


def allowing_fairseq(stock: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """Torch's list of allowed names, with ours where `_reading_fairseq` is at work."""

    @functools.wraps(stock)
    def allowed() -> dict[str, Any]:
        return {**stock(), **_allowed_names()} if _reading.fairseq else stock()

    return allowed


@functools.cache
def _allowed_names() -> dict[str, Any]:
    """What a fairseq checkpoint may name: its name in the pickle -> the class or a stand-in.

    The unpickler calls these with any arguments and sets any of their attributes, so each only stores what it gets.
    Where the original could do more, a stand-in of ours takes its place.
    """
    import omegaconf
    from fairseq.data.dictionary import Dictionary
    from fairseq.distributed.utils import _TensorPlaceholder
    from fairseq.logging import meters
    from omegaconf.base import ContainerMetadata, Metadata

    containers = (argparse.Namespace, omegaconf.DictConfig, omegaconf.ListConfig, ContainerMetadata, Metadata)
    nodes = (omegaconf.AnyNode, omegaconf.StringNode, omegaconf.IntegerNode, omegaconf.FloatNode, omegaconf.BooleanNode)
    of_training = (meters.AverageMeter, meters.SumMeter, meters.TimeMeter, meters.StopwatchMeter)
    types = (dict, list, int, float, str, bool)
    classes = (Dictionary, _TensorPlaceholder, *containers, *nodes, *of_training, *types)
    names: dict[str, Any] = {f"{kind.__module__}.{kind.__qualname__}": kind for kind in classes}
    names |= {f"fairseq.meters.{meter.__name__}": meter for meter in of_training}  # as in 2019
    return names | {
        "typing.Any": Any,
        "collections.defaultdict": _plain_dict,
        "numpy.dtype": _NumpyType,
        "numpy.core.multiarray.scalar": _numpy_scalar,
        "numpy._core.multiarray.scalar": _numpy_scalar,
    }


def _plain_dict(_factory: Any = None) -> dict[Any, Any]:
    # torch's restricted unpickler fills plain dictionaries only.
    return {}


class _NumpyType:
    """A pickled `numpy.dtype`. numpy's own sets internal flags from the pickle unchecked; this keeps its code."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code = code
        self.order: Any = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]


def _numpy_scalar(kind: _NumpyType, data: bytes) -> int | float | bool:
    dtype = np.dtype(kind.code)
    if dtype.kind not in "biuf":
        raise ValueError(f"a numpy scalar of type {kind.code!r}")
    return np.frombuffer(data, dtype.newbyteorder(kind.order), count=1)[0].item()
