"""Patch fairseq for current torch and numpy. This is the only package that touches fairseq's internals.

`apply` patches fairseq once per process. fairseq imports `w2v_compress.models` for its `common.user_dir`, and that
import calls `apply`, so stock `fairseq-hydra-train` needs nothing else. Most patches replace a global name of one
fairseq module (its `torch`, `np` or `eval`) in that module only. numpy is not changed. In torch, only the list of
classes allowed in pickles is patched, and the patch has an effect only in threads that read a fairseq checkpoint.
"""

import atexit
import functools
import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import _weights_only_unpickler

from ..errors import InputError, readable
from ..extras import require_fairseq
from .checkpoints import patch_copy, patch_load_checkpoint_to_cpu, patch_persistent_save
from .distributed import distributed_data_parallel, patch_all_gather_list, wait_for_gloo_threads
from .pickles import evaluate, load_pickle, patch_allowed_globals
from .plugin import patch_import_user_module
from .randomness import crop_to_max_size, patch_set_torch_seed, seeded_generator

_lock = threading.Lock()


def apply() -> None:
    """Patch fairseq in this process. Thread-safe; further calls have no effect."""
    with _lock:
        _patch_fairseq()


@functools.cache
def _patch_fairseq() -> None:
    _import_fairseq()
    from fairseq import checkpoint_utils, file_io, utils
    from fairseq.data import data_utils
    from fairseq.data.audio import hubert_dataset, raw_audio_dataset
    from fairseq.distributed import utils as distributed_utils
    from fairseq.models import distributed_fairseq_model
    from fairseq.models.wav2vec import wav2vec2, wav2vec2_asr

    _weights_only_unpickler._get_user_allowed_globals = patch_allowed_globals(
        _weights_only_unpickler._get_user_allowed_globals
    )
    checkpoint_utils.torch = _PatchedModule(torch, load=load_pickle)
    distributed_utils.torch = _PatchedModule(torch, load=load_pickle)
    for module in [module for name, module in sys.modules.items() if name.split(".")[0] == "fairseq"]:
        module.__dict__.setdefault("eval", evaluate)

    distributed_utils.all_gather_list = patch_all_gather_list(distributed_utils.all_gather_list)
    distributed_fairseq_model.DistributedDataParallel = distributed_data_parallel
    atexit.register(wait_for_gloo_threads)

    data_utils.np = _PatchedModule(np, int=int, random=_PatchedModule(np.random, default_rng=seeded_generator))
    layer_drops = np.random.RandomState(0)
    utils.set_torch_seed = patch_set_torch_seed(utils.set_torch_seed, layer_drops)
    for models in (wav2vec2, wav2vec2_asr):
        models.np = _PatchedModule(np, random=_PatchedModule(np.random, random=layer_drops.random_sample))

    raw_audio_dataset.RawAudioDataset.crop_to_max_size = crop_to_max_size
    for datasets in (raw_audio_dataset, hubert_dataset):
        datasets.parse_path = _patch_parse_path(datasets.parse_path)
    utils.import_user_module = patch_import_user_module(utils.import_user_module)

    file_io.PathManager.copy = staticmethod(patch_copy(file_io.PathManager.copy))
    checkpoint_utils.torch_persistent_save = patch_persistent_save(checkpoint_utils.torch_persistent_save)
    checkpoint_utils.load_checkpoint_to_cpu = patch_load_checkpoint_to_cpu(checkpoint_utils.load_checkpoint_to_cpu)


def apply_to_training() -> None:
    """Patch fairseq's training loop in this process. Thread-safe; further calls have no effect."""
    with _lock:
        _patch_training()


@functools.cache
def _patch_training() -> None:
    from fairseq_cli import train

    from .preemption import patch_train, patch_validate_and_save

    train.train = patch_train(train.train)
    train.validate_and_save = patch_validate_and_save(train.validate_and_save)


def _import_fairseq() -> None:
    """Import fairseq without its warnings and without its changes to the root logger."""
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


class _PatchedModule(ModuleType):
    """Proxy of `module` with other values for some names, to replace `module` in one module of fairseq."""

    def __init__(self, module: ModuleType, **names: Any) -> None:
        super().__init__(module.__name__)
        self.__dict__.update(names, __wrapped__=module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__wrapped__, name)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Load a fairseq checkpoint, current (`cfg`) or from 2020-21 (`args`), with its tensors on the CPU.

    No code from the file is run: only the classes that fairseq checkpoints need are unpickled, and settings that
    fairseq would evaluate must be literals. Raises `InputError` for a file that is missing, truncated, not a fairseq
    checkpoint, or rejected.
    """
    require_fairseq("reading a fairseq checkpoint")
    apply()
    path = Path(path)
    with readable(path), path.open("rb") as file:
        state = load_pickle(file)
    if not isinstance(state, dict) or not isinstance(state.get("model"), Mapping):
        raise InputError(f"{path}: is not a fairseq checkpoint (it has no model)")
    return state


def _patch_parse_path(stock: Callable[[str], tuple[str, list[int]]]) -> Callable[[str], tuple[str, list[int]]]:
    """Patch fairseq's `parse_path`, called before each audio file is read, to reject special files.

    Reading a FIFO or a device might never end.
    """

    @functools.wraps(stock)
    def parse_path(path: str) -> tuple[str, list[int]]:
        file, place = stock(path)
        if os.path.exists(file) and not os.path.isfile(file):
            raise InputError(f"{file}: is not a plain file")
        return file, place

    return parse_path
