"""Reading and writing fairseq checkpoints. Only the functions that read checkpoints import fairseq.

Supported are CTC checkpoints of stock fairseq (`wav2vec_ctc` on `wav2vec2` or one of our pre-training models), with a
configuration of current fairseq (`cfg`) or of 2020-21 (`args`), and checkpoints of our `student_ctc` and
`compressed_ctc`. The pre-trained checkpoint that a CTC checkpoint started from is needed only if the latter has no
`w2v_args`. `read_initial` also reads pre-trained networks, to fine-tune them.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.units import UnitKind, Units
from ..errors import InputError, prefixed, shown
from ..files import replacing
from ..model_file.random import random_model
from ..model_file.storage import ModelFile, check_finite, read_model, write_model
from ..nn.architecture import named_architecture
from . import averaging
from .fairseq_settings import FINE_TUNED, PRETRAINED, CheckpointSettings, pretrained_settings

PREFIX = "w2v_encoder."
NETWORK = "w2v_model."
LABELS = re.compile(r"\w{1,32}")
"""Endings of files of labels, such as `ltr`."""
PRETRAINING_ONLY = ("quantizer.", "project_q.", "final_proj.", "target_glu.")


@dataclass(frozen=True)
class ConvertedCheckpoint:
    """The model read from a fairseq checkpoint."""

    model: ModelFile
    units_source: str
    """Where the output units were found, as text for the user."""


@dataclass(frozen=True)
class InitialNetwork:
    """A network to fine-tune."""

    model: ModelFile
    """The network. If it was not fine-tuned before, its CTC head is zero, for LibriSpeech's letters."""
    fine_tuned: bool
    """Whether the network was fine-tuned before."""


def export_checkpoint(
    checkpoint: Path, out: Path, dictionary: Path | None = None, *, others: Sequence[Path] = (), ema: bool = False
) -> ConvertedCheckpoint:
    """Write a fairseq checkpoint as the model file `out`; arguments and errors are those of `read_checkpoint`."""
    converted = read_checkpoint(checkpoint, dictionary, others=others, ema=ema)
    write_model(out, converted.model)
    return converted


def export_random(architecture: str, out: Path, seed: int = 0) -> ModelFile:
    """Write a model of a named architecture with random weights, for measuring size and speed and for trying recipes.

    The suffix of `out` selects the format: `.safetensors` for a model file, `.pt` for a checkpoint of stock fairseq's
    `wav2vec_ctc`. Raises `InputError` for any other suffix or an unknown architecture.
    """
    writers = {".safetensors": write_model, ".pt": write_checkpoint}
    out = Path(out)
    if out.suffix not in writers:
        raise InputError(
            f"{out}: the suffix selects the format; it must be .safetensors, or .pt for a fairseq checkpoint"
        )
    model = random_model(named_architecture(architecture), seed)
    writers[out.suffix](out, model)
    return model


def write_checkpoint(path: Path, model: ModelFile) -> None:
    """Write `model` as stock fairseq saves a fine-tuned `wav2vec_ctc`, with plain values and tensors only.

    The checkpoint holds no dictionary, because fairseq would pickle it as an object. fairseq reads `dict.ltr.txt` from
    `task.data` instead, and `read_checkpoint` assumes LibriSpeech's letters if there are 32 units.
    """
    normalize = model.header.normalize
    pretrained = pretrained_settings(model.header.architecture, normalize, model.header.point)
    configuration = {
        "model": {"_name": "wav2vec_ctc", "w2v_path": "", "w2v_args": pretrained, "normalize": normalize, "data": ""},
        "task": {"_name": "audio_finetuning", "data": "", "labels": "ltr", "normalize": normalize},
    }
    checkpoint = {
        "args": None,
        "cfg": configuration,
        "model": {f"{PREFIX}{name}": tensor for name, tensor in model.state.items()},
        "optimizer_history": [{"optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 0}],
        "extra_state": {"epoch": 0},
        "task_state": {},
        "last_optimizer_state": None,
    }
    with replacing(path) as temporary:
        try:
            torch.save(checkpoint, temporary)
        except RuntimeError as error:  # torch's zip writer reports a full disk this way
            raise InputError(f"{path}: cannot be written: {str(error).splitlines()[0]}") from None


def read_checkpoint(
    path: Path, dictionary: Path | None = None, *, others: Sequence[Path] = (), ema: bool = False
) -> ConvertedCheckpoint:
    """Read the CTC recognizer in a fairseq checkpoint, with weights in fp32. Never runs code from the file.

    Args:
        path: the checkpoint.
        dictionary: fairseq's `dict.ltr.txt`, or the folder that holds it. By default the units are those in the
            checkpoint, else those of the dictionary beside the checkpoint or in its data folder, else, for 32 classes,
            fairseq's LibriSpeech letters.
        others: checkpoints of the same run, to average their weights with those of `path`.
        ema: use the moving average of the weights that fairseq stores with `ema.store_ema`.

    Raises `InputError` that names the setting that this network does not support, or the tensor that is missing,
    unknown or of the wrong shape.
    """
    from ..compat import load_checkpoint

    checkpoint = load_checkpoint(path)
    if others or ema:
        states = [_weights(path, checkpoint, ema), *(_weights(other, load_checkpoint(other), ema) for other in others)]
        checkpoint["model"] = averaging.mean(states, [path, *others])
    with prefixed(path):
        settings = CheckpointSettings.from_checkpoint(checkpoint, FINE_TUNED)
        return _convert_fine_tuned(Path(path), checkpoint, settings, dictionary)


def read_initial(path: Path) -> InitialNetwork:
    """Read the network to fine-tune from `path`.

    `path` is a checkpoint pre-trained with stock fairseq's `wav2vec2` or one of our models, or any file that
    `read_recognizer` reads. Raises `InputError` as `read_checkpoint` does.
    """
    if path.suffix == ".safetensors":
        return InitialNetwork(read_recognizer(path), fine_tuned=True)
    from ..compat import load_checkpoint

    checkpoint = load_checkpoint(path)
    with prefixed(path):
        settings = CheckpointSettings.from_checkpoint(checkpoint, (*PRETRAINED, *FINE_TUNED))
        if settings.name in FINE_TUNED:
            return InitialNetwork(_convert_fine_tuned(path, checkpoint, settings, None).model, fine_tuned=True)
        state = {f"{NETWORK}{name}": tensor for name, tensor in _convert_state(checkpoint.get("model"), "").items()}
        header = settings.header(Units.letters())
        state["proj.weight"] = torch.zeros(len(header.units.symbols), header.architecture.encoder_embed_dim)
        state["proj.bias"] = torch.zeros(len(header.units.symbols))
        return InitialNetwork(ModelFile(header, state), fine_tuned=False)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of the pre-trained network in a fairseq checkpoint, under their names in pre-training.

    The checkpoint may be pre-trained or fine-tuned.
    """
    from ..compat import load_checkpoint

    stored = load_checkpoint(path)["model"].items()
    return {
        name.removeprefix(PREFIX).removeprefix(NETWORK): tensor for name, tensor in stored if isinstance(tensor, Tensor)
    }


def read_recognizer(path: Path) -> ModelFile:
    """Read the floating-point recognizer in `path`, a model file (`.safetensors`) or a fairseq CTC checkpoint."""
    if path.suffix != ".safetensors":
        return read_checkpoint(path).model
    model = read_model(path)
    if model.header.quantization is not None:
        raise InputError(f"{path}: is quantized; training needs the floating-point model that it was made from")
    return model


def _weights(path: Path, checkpoint: Mapping[str, Any], ema: bool) -> dict[str, Tensor]:
    with prefixed(path):
        return averaging.weights(checkpoint, ema=ema)


def _convert_fine_tuned(
    path: Path, checkpoint: Mapping[str, Any], settings: CheckpointSettings, dictionary: Path | None
) -> ConvertedCheckpoint:
    state = _convert_state(checkpoint.get("model"), PREFIX)
    units, source = _find_units(path, checkpoint, settings.task, dictionary, _num_units(state))
    return ConvertedCheckpoint(ModelFile(settings.header(units), state), source)


def _convert_state(stored: Any, prefix: str) -> dict[str, Tensor]:
    """Return the tensors in fp32, under their names without `prefix`, except those used only in pre-training."""
    if not isinstance(stored, Mapping):
        raise InputError("not a fairseq checkpoint: it has no `model`")
    state = {}
    for name, tensor in stored.items():
        if not isinstance(name, str):
            raise InputError(f"the tensor {name!r} has a name that is not text")
        inner = name.removeprefix(prefix)
        if inner.removeprefix(NETWORK).startswith(PRETRAINING_ONLY):
            continue
        if not name.startswith(prefix) or not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            raise InputError(f"the tensor `{name}` is unknown")
        check_finite(name, tensor)
        state[inner] = tensor.float()
    return state


def _num_units(state: Mapping[str, Tensor]) -> int:
    if "proj.bias" not in state or state["proj.bias"].ndim != 1:
        raise InputError("the tensor `w2v_encoder.proj.bias`, the CTC head, is missing: this model was not fine-tuned")
    return len(state["proj.bias"])


def _find_units(
    path: Path, checkpoint: Mapping[str, Any], task: Mapping[str, Any], dictionary: Path | None, num_units: int
) -> tuple[Units, str]:
    """Return the output units and where they were found; raise `InputError` if they do not fit the CTC head."""
    labels = task.get("labels") or "ltr"
    if not (isinstance(labels, str) and LABELS.fullmatch(labels)):
        raise InputError(
            f"`labels` in its task is {shown(str(labels)[:80])}; it must be the ending of a file of labels"
        )
    kind: UnitKind = "sentencepiece" if labels == "spm" else "letter"
    file_name = f"dict.{labels}.txt"
    if dictionary is not None:
        if not dictionary.exists():
            raise InputError(f"the dictionary {dictionary} does not exist")
        files = [dictionary / file_name if dictionary.is_dir() else dictionary]
    else:
        folders = [path.parent, *([Path(str(task["data"]))] if task.get("data") else [])]
        files = [file for file in (folder / file_name for folder in folders) if os.path.isfile(file)]  # of any path
    stored = _stored_symbols(checkpoint.get("task_state"))
    if stored is not None and dictionary is None and kind == "letter":
        units, source = Units(kind, stored), "the checkpoint"
    elif files:
        units, source = Units.read_dictionary(files[0], kind), str(files[0])
    elif kind == "letter" and num_units == len(Units.letters().symbols):
        units, source = Units.letters(), "fairseq's LibriSpeech letters, because no dictionary was found"
    else:
        raise InputError(
            f"its {num_units} units are not in the checkpoint, and there is no {file_name} beside it or in its data "
            "folder: put the dictionary there, or name one with --dict"
        )
    if len(units.symbols) != num_units:
        raise InputError(f"its CTC head has {num_units} units, but {source} has {len(units.symbols)} symbols")
    if stored is not None and dictionary is None and units.symbols != stored:
        raise InputError(f"its dictionary differs from {source}")
    return units, source


def _stored_symbols(task_state: Any) -> tuple[str, ...] | None:
    """Return the symbols of the dictionary in a checkpoint, or None if there is none."""
    dictionary = task_state.get("target_dictionary") if isinstance(task_state, Mapping) else None
    if dictionary is None:
        return None
    symbols = getattr(dictionary, "symbols", None)
    if not isinstance(symbols, list) or not all(isinstance(symbol, str) for symbol in symbols):
        raise InputError("its `target_dictionary` is not a dictionary of fairseq")
    return tuple(symbols)
