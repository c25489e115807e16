"""Patches that make fairseq work on current torch and numpy: the only package that touches fairseq's internals.

`apply` patches fairseq in this process, once. Importing `w2v_compress.models` calls it, which fairseq does for its
`common.user_dir`, so stock `fairseq-hydra-train` needs nothing else. Most patches replace a name that one module of
fairseq looks up (its `torch`, its `numpy`, its `eval`) in that module only. numpy stays as it is, and so does torch
for everyone else: its unpickler accepts fairseq's classes only in a thread that is reading a fairseq checkpoint.
"""

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

from ..errors import InputError
from ..extras import require_fairseq
from .distributed import distributed_data_parallel, gathering_on_cpu
from .pickles import allowing_fairseq, evaluate, load_pickle
from .plugin import refusing_second_copy
from .randomness import crop_to_max_size, seeded_generator, seeding

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

    _weights_only_unpickler._get_user_allowed_globals = allowing_fairseq(
        _weights_only_unpickler._get_user_allowed_globals
    )
    checkpoint_utils.torch = _Replaced(torch, load=load_pickle)
    distributed_utils.torch = _Replaced(torch, load=load_pickle)
    for module in [module for name, module in sys.modules.items() if name.split(".")[0] == "fairseq"]:
        module.__dict__.setdefault("eval", evaluate)

    distributed_utils.all_gather_list = gathering_on_cpu(distributed_utils.all_gather_list)
    distributed_fairseq_model.DistributedDataParallel = distributed_data_parallel

    data_utils.np = _Replaced(np, int=int, random=_Replaced(np.random, default_rng=seeded_generator))
    layer_drops = np.random.RandomState(0)
    utils.set_torch_seed = seeding(utils.set_torch_seed, layer_drops)
    for models in (wav2vec2, wav2vec2_asr):
        models.np = _Replaced(np, random=_Replaced(np.random, random=layer_drops.random_sample))

    raw_audio_dataset.RawAudioDataset.crop_to_max_size = crop_to_max_size
    for datasets in (raw_audio_dataset, hubert_dataset):
        datasets.parse_path = _refusing_special_files(datasets.parse_path)
    utils.import_user_module = refusing_second_copy(utils.import_user_module)


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
            state = load_pickle(file)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    if not isinstance(state, dict) or not isinstance(state.get("model"), Mapping):
        raise InputError(f"{path}: is not a fairseq checkpoint (it holds no model)")
    return state


def _refusing_special_files(stock: Callable[[str], tuple[str, list[int]]]) -> Callable[[str], tuple[str, list[int]]]:
    """Fairseq's `parse_path`, which it calls for each audio file before it reads that. A FIFO or a device could keep it
    reading for ever.
    """

    @functools.wraps(stock)
    def parse_path(path: str) -> tuple[str, list[int]]:
        file, place = stock(path)
        if os.path.exists(file) and not os.path.isfile(file):
            raise InputError(f"{file}: is not a plain file")
        return file, place

    return parse_path
