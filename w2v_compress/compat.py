"""fairseq on current torch and numpy: the only module that touches fairseq's insides.

`apply` mends fairseq in this process, once. Importing `w2v_compress.models` calls it, which fairseq does for its
`common.user_dir`, so stock `fairseq-hydra-train` needs nothing else. Most of it replaces a name that a module of
fairseq looks up (its `torch`, its `numpy`, its `eval`) for that module alone. numpy stays as it is, and so does torch
for everyone else: its unpickler knows fairseq's classes only in a thread that is reading one of fairseq's files.
"""

import argparse
import ast
import contextlib
import functools
import logging
import os
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor, _weights_only_unpickler, nn

from .errors import InputError
from .extras import require_fairseq
from .nn.architecture import parse_conv_layers
from .nn.encoder import Encoder

EVALUATED_SETTINGS = (
    "conv_feature_layers",
    "conv_aggregator_layers",
    "feature_encoder_spec",
    "override_encoder_layers",
    "wer_args",
    "adam_betas",
)
"""Settings of speech models, their data, loss and optimizer that fairseq passes to `eval`."""


def user_dir() -> Path:
    """The folder to give fairseq as `common.user_dir`: this package, wherever it is installed."""
    return Path(__file__).absolute().parent


_applying = threading.Lock()


def apply() -> None:
    """Mend fairseq in this process. Further calls do nothing; any number of threads may call it."""
    with _applying:
        _apply()


@functools.cache
def _apply() -> None:
    _import_fairseq()
    from fairseq import checkpoint_utils, utils
    from fairseq.data import data_utils
    from fairseq.data.audio import hubert_dataset, raw_audio_dataset
    from fairseq.distributed import utils as distributed_utils
    from fairseq.models import distributed_fairseq_model
    from fairseq.models.wav2vec import wav2vec2, wav2vec2_asr

    _weights_only_unpickler._get_user_allowed_globals = _allowing_fairseq(
        _weights_only_unpickler._get_user_allowed_globals
    )
    checkpoint_utils.torch = _Replaced(torch, load=_load)
    distributed_utils.torch = _Replaced(torch, load=_load)
    for module in [module for name, module in sys.modules.items() if name.split(".")[0] == "fairseq"]:
        module.__dict__.setdefault("eval", evaluate)

    distributed_utils.all_gather_list = _gathering_on_cpu(distributed_utils.all_gather_list)
    distributed_fairseq_model.DistributedDataParallel = _distributed_data_parallel

    data_utils.np = _Replaced(np, int=int, random=_Replaced(np.random, default_rng=_seeded_generator))
    layer_drops = np.random.RandomState(0)
    utils.set_torch_seed = _seeding(utils.set_torch_seed, layer_drops)
    for models in (wav2vec2, wav2vec2_asr):
        models.np = _Replaced(np, random=_Replaced(np.random, random=layer_drops.random_sample))

    raw_audio_dataset.RawAudioDataset.crop_to_max_size = _crop_to_max_size
    for datasets in (raw_audio_dataset, hubert_dataset):
        datasets.parse_path = _refusing_special_files(datasets.parse_path)
    utils.import_user_module = _refusing_second_copy(utils.import_user_module)


def _import_fairseq() -> None:
    """Import fairseq without its warnings, and without the root logger that it sets up as it is imported."""
    if "fairseq" in sys.modules:
        return
    root = logging.getLogger()
    handlers, level, disabled = list(root.handlers), root.level, root.manager.disable
    logging.disable(logging.INFO)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import fairseq  # noqa: F401
    logging.disable(disabled)
    root.handlers[:] = handlers
    root.setLevel(level)


class _Replaced(ModuleType):
    """`module` with some names replaced, for one module of fairseq that looks them up there."""

    def __init__(self, module: ModuleType, **names: Any) -> None:
        super().__init__(module.__name__)
        self.__dict__.update(names, __wrapped__=module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__wrapped__, name)


# --- checkpoints: pickles that hold classes, and strings that fairseq evaluates -----------------------------------


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """The contents of a fairseq checkpoint, of today (`cfg`) or of 2020-21 (`args`), with its tensors on the CPU.

    Never runs code from the file: only the classes that fairseq's checkpoints need are read, and settings that
    fairseq would evaluate are checked to be literals. Raises `InputError`, naming the file and what is wrong, for a
    file that is missing, truncated, not a fairseq checkpoint, or refused.
    """
    require_fairseq("reading a fairseq checkpoint")
    apply()
    path = Path(path)
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: cannot be read: it is not a plain file")
    try:
        with path.open("rb") as file:
            state = _load(file)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    if not isinstance(state, dict) or not isinstance(state.get("model"), Mapping):
        raise InputError(f"{path}: is not a fairseq checkpoint (it holds no model)")
    return state


def _load(file: BinaryIO, map_location: Any = "cpu") -> Any:
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


def _allowing_fairseq(stock: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """torch's list of allowed names, with ours where `_reading_fairseq` is at work."""

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


# --- two processes on CPU -----------------------------------------------------------------------------------------


def _gathering_on_cpu(stock: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    """fairseq's `all_gather_list`, with its buffers on the CPU unless the backend is NCCL."""

    @functools.wraps(stock)
    def all_gather_list(data: Any, group: Any = None, max_size: int = 16384) -> list[Any]:
        from fairseq.distributed import utils as distributed_utils

        group = distributed_utils.get_global_group() if group is None else group
        if torch.distributed.get_backend(group) != "nccl":
            # The stock function keeps its buffers as attributes of its own name, which is this function now.
            size = max_size * distributed_utils.get_world_size(group)
            all_gather_list.__dict__.update(
                _buffer=torch.empty(size, dtype=torch.uint8), _cpu_buffer=torch.empty(max_size, dtype=torch.uint8)
            )
        return stock(data, group, max_size)

    return all_gather_list


def _distributed_data_parallel(
    module: nn.Module, *, device_ids: list[int], output_device: int, find_unused_parameters: bool, **options: Any
) -> nn.parallel.DistributedDataParallel:
    """torch's, on CPUs too, and looking for parameters without a gradient in models of ours, whatever the setting.

    Skipped layers, upsampling for other squeeze factors and what is frozen have none. Without looking for them, the
    gradients that share a bucket with them would not be exchanged, and the ranks would drift apart unnoticed.
    """
    ours = any(isinstance(part, Encoder) for part in module.modules())
    options["find_unused_parameters"] = find_unused_parameters or ours
    if all(parameter.device.type == "cpu" for parameter in module.parameters()):
        return nn.parallel.DistributedDataParallel(module, **options)
    return nn.parallel.DistributedDataParallel(module, device_ids=device_ids, output_device=output_device, **options)


# --- steps of the optimizer ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def leaving_untouched(optimizer: Any, parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Within, a step of fairseq's `optimizer` changes neither these parameters nor what it keeps of them.

    For parameters that have no gradient in this update. In one process in fp32 Adam leaves them out, but `legacy_ddp`
    and the optimizers for half precision give them a gradient of zeros, by which momentum and weight decay move them.
    """
    left = set(parameters)
    for parameter in left:
        parameter.grad = None
    copies = getattr(optimizer, "fp32_params", None)
    if isinstance(copies, list):  # a copy in fp32 of each parameter
        for parameter, copy in zip(optimizer.fp16_params, copies, strict=True):
            if parameter in left:
                copy.grad = None
        copies = None
    slices = [] if copies is None else list(_slices_of(left, optimizer.fp16_params, copies))
    before = [
        {name: vector[place].clone() for name, vector in _vectors(optimizer, flat).items()} for flat, place in slices
    ]
    yield
    for (flat, place), values in zip(slices, before, strict=True):
        for name, vector in _vectors(optimizer, flat).items():
            vector[place] = values.get(name, 0)  # moments begin with the first step
    if slices:
        optimizer._sync_fp32_params_to_fp16()


def _slices_of(
    left: set[nn.Parameter], parameters: Sequence[nn.Parameter], copies: Mapping[Any, nn.Parameter]
) -> Iterator[tuple[nn.Parameter, slice]]:
    """Where the copies of parameters on one device, which fairseq joins to one vector, hold those of `left`."""
    ends = dict.fromkeys(copies, 0)
    for parameter in parameters:
        device = parameter.device.index
        start, ends[device] = ends[device], ends[device] + parameter.numel()
        if parameter in left:
            yield copies[device], slice(start, ends[device])


def _vectors(optimizer: Any, flat: nn.Parameter) -> dict[str, Tensor]:
    """The values of the joined parameters, and what the optimizer keeps of each, such as Adam's moments."""
    state = optimizer.optimizer.state.get(flat, {})
    moments = {name: value for name, value in state.items() if isinstance(value, Tensor) and value.shape == flat.shape}
    return {"": flat.data, **moments}


# --- random numbers: functions of (seed, update number) -----------------------------------------------------------


class _Generator(np.random.Generator):
    """numpy's generator with the method that fairseq calls by the name it had in `RandomState`."""

    randint = np.random.Generator.integers


def _seeded_generator(seed: Any = None) -> _Generator:
    """`default_rng` for masks: without a seed it takes one from torch, which fairseq seeds before each update.

    fairseq's trainer calls `torch.manual_seed(seed + updates)`, so masks are equal for equal seeds, after a resume
    too. The rank is added so that processes, whose torch seeds are equal, mask differently.
    """
    if seed is None:
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        seed = (int(torch.randint(2**62, ())), rank)
    return _Generator(np.random.PCG64(seed))


def _seeding(stock: type, layer_drops: np.random.RandomState) -> type:
    """fairseq's `set_torch_seed`, which runs before each update, seeding the choice of dropped layers as well.

    Stock draws that from numpy's global state, which a resumed run starts anew and loading threads share. It cannot
    come from torch's: its use there depends on the batch, and all processes have to drop the same layers.
    """

    class SetTorchSeed(stock):
        def __init__(self, seed: int) -> None:
            super().__init__(seed)
            layer_drops.seed(seed % 2**32)

    return SetTorchSeed


def _crop_to_max_size(_dataset: Any, tensor: Tensor, target_size: int, dim: int = 0) -> Tensor:
    """A random part of `target_size` along `dim`. The stock method indexes with a list, which torch is dropping."""
    surplus = tensor.size(dim) - target_size
    return tensor if surplus <= 0 else tensor.narrow(dim, np.random.randint(0, surplus + 1), target_size)


# --- audio -----------------------------------------------------------------------------------------------------------


def _refusing_special_files(stock: Callable[[str], tuple[str, list[int]]]) -> Callable[[str], tuple[str, list[int]]]:
    """fairseq's `parse_path`, which it calls for each audio file before it reads that. A FIFO or a device could keep it
    reading for ever."""

    @functools.wraps(stock)
    def parse_path(path: str) -> tuple[str, list[int]]:
        file, place = stock(path)
        if os.path.exists(file) and not os.path.isfile(file):
            raise InputError(f"{file}: is not a plain file")
        return file, place

    return parse_path


# --- one copy of this package -------------------------------------------------------------------------------------


def _refusing_second_copy(stock: Callable[[Any], None]) -> Callable[[Any], None]:
    """fairseq's `import_user_module` with a clear error for another copy of this package than the imported one."""

    @functools.wraps(stock)
    def import_user_module(args: Any) -> None:
        folder = Path(getattr(args, "user_dir", None) or "")
        # The name alone, which our yamls give, is this package from wherever the command was given.
        by_name = str(folder) == user_dir().name and not folder.is_dir()
        if by_name or (folder.name == user_dir().name and folder.is_dir()):
            if not by_name and not folder.samefile(user_dir()):
                raise InputError(
                    f"common.user_dir={folder} is another copy of w2v_compress than the one imported already, from "
                    f"{user_dir()}; give that one as common.user_dir, or uninstall one of the two"
                )
            # fairseq compares the folders as strings; this one may be a link to ours.
            args = argparse.Namespace(user_dir=str(user_dir()))
        stock(args)

    return import_user_module
