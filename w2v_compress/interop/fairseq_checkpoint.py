"""fairseq checkpoints to model files: the only module here that needs fairseq, and it imports it when called.

Read are CTC checkpoints of stock fairseq (`wav2vec_ctc` over `wav2vec2` or one of our pre-training models), of today
(`cfg`) and of 2020-21 (`args`), and of our `student_ctc` and `compressed_ctc`. All that is needed is in the checkpoint,
the pre-trained model it came from may be gone. To be fine-tuned, pre-trained networks are read too.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.units import UnitKind, Units
from ..errors import InputError
from ..files import replacing
from ..model_file.header import Header
from ..model_file.storage import ModelFile, read_model, write_model
from ..nn.acoustic_model import AcousticModel
from ..nn.architecture import named_architecture
from ..nn.compression import UNCOMPRESSED, CompressionPoint, CompressionSpace
from . import averaging
from .fairseq_settings import FINE_TUNED, PRETRAINED, Settings, pretrained_settings

PREFIX = "w2v_encoder."
NETWORK = "w2v_model."
PRETRAINING_ONLY = ("quantizer.", "project_q.", "final_proj.", "target_glu.")


@dataclass(frozen=True)
class FairseqCheckpoint:
    """A checkpoint as a model file has it, and where its units came from."""

    model: ModelFile
    units_source: str


@dataclass(frozen=True)
class InitialNetwork:
    """A network to fine-tune."""

    model: ModelFile
    """With a CTC head of zeros for LibriSpeech's letters, where it was not fine-tuned before."""
    fine_tuned: bool


def export_checkpoint(
    checkpoint: Path, out: Path, dictionary: Path | None = None, *, others: Sequence[Path] = (), ema: bool = False
) -> FairseqCheckpoint:
    """Write the fairseq checkpoint as the model file `out`; arguments and errors are those of `read_checkpoint`."""
    converted = read_checkpoint(checkpoint, dictionary, others=others, ema=ema)
    write_model(out, converted.model)
    return converted


def export_random(architecture: str, out: Path, seed: int = 0) -> ModelFile:
    """Write a model of a named architecture with random weights, to measure size and speed and to try recipes.

    A model file, or, when the suffix of `out` is `.pt`, the checkpoint of stock fairseq's `wav2vec_ctc`. Raises
    `InputError` on any other suffix but `.safetensors`.
    """
    out = Path(out)
    if out.suffix not in (".pt", ".safetensors"):
        raise InputError(f"{out}: the suffix decides what is written; it must be .safetensors or .pt (fairseq's)")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = AcousticModel(named_architecture(architecture))
    learned = network.architecture.learned_upsampling
    point = CompressionPoint(learned[0]) if learned else UNCOMPRESSED
    model = ModelFile(
        Header(
            architecture=network.architecture,
            units=Units.letters(),
            normalize=network.architecture.extractor_mode == "layer_norm",
            space=CompressionSpace(points=(point,)),
            point=point,
        ),
        network.state_dict(),
    )
    if out.suffix == ".pt":
        write_checkpoint(out, model)
    else:
        write_model(out, model)
    return model


def write_checkpoint(path: Path, model: ModelFile) -> None:
    """Write `model` as stock fairseq saves a fine-tuned `wav2vec_ctc`, of plain data and tensors alone.

    It holds no dictionary, which fairseq would pickle as an object: the task that loads it reads `dict.ltr.txt` in
    `task.data`, and `read_checkpoint` takes 32 units for LibriSpeech letters.
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
        torch.save(checkpoint, temporary)


def read_checkpoint(
    path: Path, dictionary: Path | None = None, *, others: Sequence[Path] = (), ema: bool = False
) -> FairseqCheckpoint:
    """The CTC recognizer in a fairseq checkpoint, its weights as fp32.

    others: checkpoints of the same run, whose weights are averaged with those of `path`. ema: take the moving average
    of the weights that fairseq kept (`ema.store_ema`), in place of the weights.
    `dictionary` is fairseq's `dict.ltr.txt` or a folder that holds it. Without it the units are those in the
    checkpoint, else those of the dictionary beside the checkpoint or in its data folder, else, for 32 classes,
    fairseq's LibriSpeech letters. Raises `InputError` that names what the network here cannot represent, and the
    tensor that is missing, unknown or misshapen. Never runs code from the file.
    """
    from ..compat import load_checkpoint

    checkpoint = load_checkpoint(path)
    if others or ema:
        states = [_weights(path, checkpoint, ema), *(_weights(other, load_checkpoint(other), ema) for other in others)]
        checkpoint["model"] = averaging.mean(states, [path, *others])
    with _naming(path):
        return _fine_tuned(Path(path), checkpoint, Settings.of(checkpoint, FINE_TUNED), dictionary)


def read_initial(path: Path) -> InitialNetwork:
    """The network to fine-tune in `path`: pre-trained by stock fairseq's `wav2vec2` or by a model of ours, or all that
    `read_recognizer` reads. Raises `InputError` as `read_checkpoint` does.
    """
    if path.suffix == ".safetensors":
        return InitialNetwork(read_recognizer(path), fine_tuned=True)
    from ..compat import load_checkpoint

    checkpoint = load_checkpoint(path)
    with _naming(path):
        settings = Settings.of(checkpoint, (*PRETRAINED, *FINE_TUNED))
        if settings.name in FINE_TUNED:
            return InitialNetwork(_fine_tuned(path, checkpoint, settings, None).model, fine_tuned=True)
        state = {f"{NETWORK}{name}": tensor for name, tensor in _state(checkpoint.get("model"), "").items()}
        header = settings.header(Units.letters())
        state["proj.weight"] = torch.zeros(len(header.units.symbols), header.architecture.encoder_embed_dim)
        state["proj.bias"] = torch.zeros(len(header.units.symbols))
        return InitialNetwork(ModelFile(header, state), fine_tuned=False)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of the pre-trained network in a fairseq checkpoint, fine-tuned or not, under the names they had in
    pre-training.
    """
    from ..compat import load_checkpoint

    stored = load_checkpoint(path)["model"].items()
    return {
        name.removeprefix(PREFIX).removeprefix(NETWORK): tensor for name, tensor in stored if isinstance(tensor, Tensor)
    }


def read_recognizer(path: Path) -> ModelFile:
    """The floating-point recognizer in `path`, a model file of ours (`.safetensors`) or a fairseq CTC checkpoint."""
    if path.suffix != ".safetensors":
        return read_checkpoint(path).model
    model = read_model(path)
    if model.header.quantization is not None:
        raise InputError(f"{path}: is quantized; training needs the floating-point model that it was made from")
    return model


def _weights(path: Path, checkpoint: Mapping[str, Any], ema: bool) -> dict[str, Tensor]:
    with _naming(path):
        return averaging.weights(checkpoint, ema=ema)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors begin with the file that they are about."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _fine_tuned(
    path: Path, checkpoint: Mapping[str, Any], settings: "Settings", dictionary: Path | None
) -> FairseqCheckpoint:
    state = _state(checkpoint.get("model"), PREFIX)
    units, source = _units(path, checkpoint, settings.task, dictionary, _num_units(state))
    return FairseqCheckpoint(ModelFile(settings.header(units), state), source)


def _state(stored: Any, prefix: str) -> dict[str, Tensor]:
    """The tensors under their names without `prefix`, as fp32, without those that only pre-training uses."""
    if not isinstance(stored, Mapping):
        raise InputError("not a fairseq checkpoint: it has no `model`")
    state = {}
    for name, tensor in stored.items():
        inner = name.removeprefix(prefix)
        if inner.removeprefix(NETWORK).startswith(PRETRAINING_ONLY):
            continue
        if not name.startswith(prefix) or not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            raise InputError(f"the tensor `{name}` is unknown")
        state[inner] = tensor.float()
    return state


def _num_units(state: Mapping[str, Tensor]) -> int:
    if "proj.bias" not in state or state["proj.bias"].ndim != 1:
        raise InputError("the tensor `w2v_encoder.proj.bias`, the CTC head, is missing: this model was not fine-tuned")
    return len(state["proj.bias"])


def _units(
    path: Path, checkpoint: Mapping[str, Any], task: Mapping[str, Any], dictionary: Path | None, num_units: int
) -> tuple[Units, str]:
    """The units, and where they were found."""
    kind: UnitKind = "sentencepiece" if task.get("labels") == "spm" else "letter"
    file_name = "dict.spm.txt" if kind == "sentencepiece" else f"dict.{task.get('labels') or 'ltr'}.txt"
    if dictionary is not None:
        if not dictionary.exists():
            raise InputError(f"the dictionary {dictionary} does not exist")
        files = [dictionary / file_name if dictionary.is_dir() else dictionary]
    else:
        folders = [path.parent, *([Path(str(task["data"]))] if task.get("data") else [])]
        files = [file for file in (folder / file_name for folder in folders) if file.is_file()]
    stored = (checkpoint.get("task_state") or {}).get("target_dictionary")
    if stored is not None and dictionary is None and kind == "letter":
        units, source = Units(kind, tuple(stored.symbols)), "the checkpoint"
    elif files:
        units, source = Units.read_dictionary(files[0], kind), str(files[0])
    elif kind == "letter" and num_units == len(Units.letters().symbols):
        units, source = Units.letters(), "fairseq's LibriSpeech letters, for want of a dictionary"
    else:
        raise InputError(
            f"it does not hold all of its {num_units} units, and there is no {file_name} beside it or in its data "
            "folder: put it there, or name one with --dict"
        )
    if len(units.symbols) != num_units:
        raise InputError(f"its CTC head has {num_units} units, but {source} has {len(units.symbols)} symbols")
    if stored is not None and dictionary is None and units.symbols != tuple(stored.symbols):
        raise InputError(f"its dictionary differs from {source}")
    return units, source
