"""Read fairseq's pickles and settings without running code from them."""

import argparse
import ast
import contextlib
import functools
import os
import re
import threading
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np
import torch

from ..errors import InputError, prefixed
from ..nn.architecture import parse_conv_layers

EVALUATED_SETTINGS = (
    "conv_feature_layers",
    "conv_aggregator_layers",
    "feature_encoder_spec",
    "override_encoder_layers",
    "wer_args",
    "adam_betas",
)
"""Settings that fairseq passes to `eval` for speech models, their data, loss and optimizer."""

ZIP_MAGIC = b"PK\x03\x04"
"""Beginning of a zip archive, by which torch recognizes one too."""
MAX_VALUES = 2_000_000
"""Largest number of values in a checkpoint. References to one value count each time, since they expand when read."""


def load_pickle(file: BinaryIO, map_location: Any = "cpu") -> Any:
    """Load a pickle that has only allowed classes, regardless of torch's environment variables.

    Raises `InputError` for a file that is damaged, is not a fairseq checkpoint, or could run code.
    """
    source = getattr(file, "name", "an object sent by another process")
    try:
        with prefixed(source):
            _check_archive(file)
        with _allowing_fairseq_classes():
            state = torch.load(file, map_location=map_location, weights_only=True)
        with prefixed(source):
            _check_values(state)
        if isinstance(state, dict):
            for setting, text in _evaluated_settings([state.get("cfg"), state.get("args")]):
                with prefixed(f"{source}: is rejected"):
                    evaluate(text, f"the setting `{setting}`")
    except InputError:
        raise
    except Exception as error:  # a damaged or malicious file can raise anything
        raise InputError(f"{source}: {_reason(error)}") from None
    return state


def _check_archive(file: BinaryIO) -> None:
    """Raise `InputError` if `file` is a zip archive that unpacks to more than its size; torch never compresses."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    is_archive = file.read(len(ZIP_MAGIC)) == ZIP_MAGIC
    if is_archive:
        unpacked = sum(member.file_size for member in zipfile.ZipFile(file).infolist())
        if unpacked > size:
            raise InputError(f"is rejected: it unpacks to {unpacked} bytes; torch stores them uncompressed")
    file.seek(0)


def _check_values(state: Any) -> None:
    """Raise `InputError` if reading `state` would take more memory or time than its file has content.

    A small file can hold lists of references to each other that expand exponentially, and tensors that repeat one
    number.
    """
    stack, count = [state], 0
    while stack:
        value = stack.pop()
        count += 1
        if count > MAX_VALUES:
            raise InputError(f"is rejected: it has more than {MAX_VALUES} values")
        if isinstance(value, torch.Tensor):
            _check_tensor(value)
        elif isinstance(value, dict):
            stack.extend(value.keys())
            stack.extend(value.values())
        elif isinstance(value, list | tuple | set | frozenset):
            stack.extend(value)
        elif hasattr(value, "__dict__") and not isinstance(value, type):
            stack.extend(inner for name, inner in vars(value).items() if name != "_parent")  # OmegaConf's way up


def _check_tensor(tensor: torch.Tensor) -> None:
    kind = "nested" if tensor.is_nested else "meta" if tensor.is_meta else "quantized" if tensor.is_quantized else ""
    if kind or tensor.layout != torch.strided:
        raise InputError(f"is rejected: it has a {kind or 'sparse'} tensor; only dense ones are allowed")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        stored = tensor.untyped_storage().nbytes() // tensor.element_size()
        raise InputError(f"is rejected: it has a tensor of {tensor.numel()} values, of which only {stored} are stored")


def _reason(error: Exception) -> str:
    rejected = re.search(r"GLOBAL ([\w.]+)", str(error))
    if rejected:
        return f"is rejected: it needs `{rejected[1]}`, which no fairseq checkpoint does and which could run code"
    detail = str(error).rpartition("WeightsUnpickler error: ")[2].strip()
    return f"is not a fairseq checkpoint, or is damaged ({detail.splitlines()[0] if detail else type(error).__name__})"


def _evaluated_settings(settings: Any) -> Iterator[tuple[str, str]]:
    """Yield (name, text) of each setting, at any depth, that fairseq would evaluate."""
    from omegaconf import OmegaConf

    if OmegaConf.is_config(settings):
        settings = OmegaConf.to_container(settings)
    if isinstance(settings, argparse.Namespace):
        settings = vars(settings)
    if isinstance(settings, dict):
        for name, value in settings.items():
            # Interpolations are checked after they are resolved, by the `eval` that `apply` puts into fairseq.
            if name in EVALUATED_SETTINGS and isinstance(value, str) and "${" not in value:
                yield name, value
        settings = list(settings.values())
    if isinstance(settings, list):
        for value in settings:
            yield from _evaluated_settings(value)


def evaluate(text: str, setting: str = "a setting") -> Any:
    """Replace `eval` for fairseq's settings: accept literals, and lists of convolutions joined with + and *."""
    with contextlib.suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return ast.literal_eval(text)
    with contextlib.suppress(InputError, AttributeError):
        return list(parse_conv_layers(text))
    raise InputError(
        f"{setting} that fairseq evaluates is {str(text)[:200]!r}; "
        "it must be a literal such as (0.9, 0.98), or a list such as [(512, 10, 5)] + [(512, 3, 2)] * 4"
    )


class _ThreadState(threading.local):
    """State of one thread."""

    fairseq_allowed = False


_thread = _ThreadState()


@contextlib.contextmanager
def _allowing_fairseq_classes() -> Iterator[None]:
    """Allow torch's restricted unpickler to load the classes of fairseq checkpoints, in this thread only.

    `torch.serialization.safe_globals` affects the process: the first thread to leave it removes the classes for all
    other threads.
    """
    _thread.fairseq_allowed = True
    try:
        yield
    finally:
        _thread.fairseq_allowed = False


def patch_allowed_globals(stock: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """Patch torch's function for the user's allowed globals to include fairseq's inside `_allowing_fairseq_classes`."""

    @functools.wraps(stock)
    def allowed() -> dict[str, Any]:
        return {**stock(), **_allowed_names()} if _thread.fairseq_allowed else stock()

    return allowed


@functools.cache
def _allowed_names() -> dict[str, Any]:
    """Map each global name that a fairseq checkpoint may contain to its class, or to a safe substitute.

    A pickle can call these with any arguments and set any of their attributes, so each of them only stores values. A
    substitute replaces a class that does more.
    """
    import omegaconf
    from fairseq.data.dictionary import Dictionary
    from fairseq.distributed.utils import _TensorPlaceholder
    from fairseq.logging import meters
    from omegaconf.base import ContainerMetadata, Metadata

    containers = (argparse.Namespace, omegaconf.DictConfig, omegaconf.ListConfig, ContainerMetadata, Metadata)
    nodes = (omegaconf.AnyNode, omegaconf.StringNode, omegaconf.IntegerNode, omegaconf.FloatNode, omegaconf.BooleanNode)
    training_meters = (meters.AverageMeter, meters.SumMeter, meters.TimeMeter, meters.StopwatchMeter)
    types = (dict, list, int, float, str, bool)
    classes = (Dictionary, _TensorPlaceholder, *containers, *nodes, *training_meters, *types)
    names: dict[str, Any] = {f"{kind.__module__}.{kind.__qualname__}": kind for kind in classes}
    names |= {f"fairseq.meters.{meter.__name__}": meter for meter in training_meters}  # their module in 2019
    return names | {
        "typing.Any": Any,
        "collections.defaultdict": _plain_dict,
        "numpy.dtype": _NumpyType,
        "numpy.core.multiarray.scalar": _numpy_scalar,
        "numpy._core.multiarray.scalar": _numpy_scalar,
    }


def _plain_dict(_factory: Any = None) -> dict[Any, Any]:
    # torch's restricted unpickler only fills plain dictionaries
    return {}


class _NumpyType:
    """Substitute for `numpy.dtype`, which sets internal flags from the pickle unchecked; stores code and byte order."""

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
