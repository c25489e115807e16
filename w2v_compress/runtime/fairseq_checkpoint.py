"""fairseq checkpoints to model files: the only module here that needs fairseq, and it imports it when called.

Read are CTC checkpoints of stock fairseq (`wav2vec_ctc` over `wav2vec2`), of today (`cfg`) and of 2020-21 (`args`),
and our `student_ctc`. All that is needed is in the checkpoint, the pre-trained model it came from may be gone.
"""

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.units import UnitKind, Units
from ..errors import InputError
from ..files import replacing
from ..nn.acoustic_model import AcousticModel
from ..nn.architecture import Architecture, named_architecture
from .model_file import Header, ModelFile, read_model, write_model

PREFIX = "w2v_encoder."
PRETRAINING_ONLY = ("quantizer.", "project_q.", "final_proj.", "target_glu.")


@dataclass(frozen=True)
class FairseqCheckpoint:
    """A checkpoint as a model file has it, and where its units came from."""

    model: ModelFile
    units_source: str


def export_checkpoint(checkpoint: Path, out: Path, dictionary: Path | None = None) -> FairseqCheckpoint:
    """Write the fairseq checkpoint as the model file `out`; arguments and errors are those of `read_checkpoint`."""
    converted = read_checkpoint(checkpoint, dictionary)
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
    model = ModelFile(
        Header(
            architecture=network.architecture,
            units=Units.letters(),
            normalize=network.architecture.extractor_mode == "layer_norm",
        ),
        network.state_dict(),
    )
    if out.suffix == ".pt":
        write_checkpoint(out, model)
    else:
        write_model(out, model)
    return model


def pretrained_settings(architecture: Architecture, normalize: bool) -> dict[str, Any]:
    """`w2v_args`: the settings of the pre-trained network as stock fairseq keeps them in a fine-tuned checkpoint."""
    return {
        "model": architecture.to_fairseq(),
        "task": {"_name": "audio_pretraining", "data": "", "normalize": normalize},
    }


def write_checkpoint(path: Path, model: ModelFile) -> None:
    """Write `model` as stock fairseq saves a fine-tuned `wav2vec_ctc`, of plain data and tensors alone.

    It holds no dictionary, which fairseq would pickle as an object: the task that loads it reads `dict.ltr.txt` in
    `task.data`, and `read_checkpoint` takes 32 units for LibriSpeech letters.
    """
    normalize = model.header.normalize
    pretrained = pretrained_settings(model.header.architecture, normalize)
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


def read_checkpoint(path: Path, dictionary: Path | None = None) -> FairseqCheckpoint:
    """The CTC recognizer in a fairseq checkpoint, its weights as fp32.

    `dictionary` is fairseq's `dict.ltr.txt` or a folder that holds it. Without it the units are those in the
    checkpoint, else those of the dictionary beside the checkpoint or in its data folder, else, for 32 classes,
    fairseq's LibriSpeech letters. Raises `InputError` that names what the network here cannot represent, and the
    tensor that is missing, unknown or misshapen. Never runs code from the file.
    """
    from ..compat import load_checkpoint

    checkpoint = load_checkpoint(path)
    try:
        settings = _Settings.of(checkpoint)
        state = _state(checkpoint.get("model"))
        architecture = settings.architecture(num_units=_num_units(state))
        units, source = _units(Path(path), checkpoint, settings.task, dictionary, architecture.num_units)
        header = Header(architecture=architecture, units=units, normalize=settings.normalize)
        return FairseqCheckpoint(ModelFile(header, state), source)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def read_recognizer(path: Path) -> ModelFile:
    """The floating-point recognizer in `path`, a model file of ours (`.safetensors`) or a fairseq CTC checkpoint."""
    if path.suffix != ".safetensors":
        return read_checkpoint(path).model
    model = read_model(path)
    if model.header.quantization is not None:
        raise InputError(f"{path}: is quantized; training needs the floating-point model that it was made from")
    return model


@dataclass(frozen=True)
class _Settings:
    """The configuration in a checkpoint, as plain dictionaries."""

    name: str
    model: dict[str, Any]
    task: dict[str, Any]

    @classmethod
    def of(cls, checkpoint: Mapping[str, Any]) -> "_Settings":
        configuration = _configuration(checkpoint)
        model, task = _section(configuration, "model"), _section(configuration, "task")
        name = str(model.get("_name") or model.get("arch"))
        if name not in ("wav2vec_ctc", "student_ctc"):
            raise InputError(f"the model is `{name}`; it must be `wav2vec_ctc` or `student_ctc`")
        rate = task.get("sample_rate", 16_000)
        if rate != 16_000:
            raise InputError(f"`task.sample_rate` is {rate!r}; it must be 16000")
        return cls(name, model, task)

    @property
    def normalize(self) -> bool:
        value = self.task.get("normalize", False)
        if not isinstance(value, bool):
            raise InputError(f"`task.normalize` is {value!r}; it must be true or false")
        return value

    def architecture(self, num_units: int) -> Architecture:
        if self.model.get("blank_weight", 0) != 0:
            raise InputError(f"`blank_weight` is {self.model['blank_weight']!r}; only 0 is supported")
        settings = self._pretrained()
        if self.model.get("layer_type") is not None:  # fairseq lets fine-tuning replace it
            settings = settings | {"layer_type": self.model["layer_type"]}
        return Architecture.from_fairseq(settings, num_units=num_units)

    def _pretrained(self) -> dict[str, Any]:
        """The settings of the pre-trained network: in the fine-tuned checkpoint, but for the oldest fairseq."""
        stored = self.model.get("w2v_args")
        if not isinstance(stored, dict):
            source = Path(str(self.model.get("w2v_path")))
            if not source.is_file():
                raise InputError(
                    f"it has no `w2v_args`, and the checkpoint at its `w2v_path`, {source}, does not exist"
                )
            from ..compat import load_checkpoint

            stored = _configuration(load_checkpoint(source))
        values = _section(stored, "model") if "model" in stored else stored
        name = values.get("_name") or values.get("arch")
        if name != "wav2vec2":
            raise InputError(f"the network that was fine-tuned is `{name}`; it must be `wav2vec2`")
        return values


def _configuration(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with its sections `model` and `task`; for 2020-21 both are the one flat namespace."""
    configuration = _plain(checkpoint.get("cfg"))
    if isinstance(configuration, dict) and configuration:
        return configuration
    arguments = _plain(checkpoint.get("args"))
    if not isinstance(arguments, dict):
        raise InputError("not a fairseq checkpoint: it has neither `cfg` nor `args`")
    return {"model": arguments, "task": arguments}


def _plain(value: Any) -> Any:
    """Namespaces and OmegaConf containers as dictionaries and lists, all the way down."""
    if isinstance(value, Namespace):
        return _plain(vars(value))
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping) and type(value) is dict:
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    from omegaconf import OmegaConf

    if OmegaConf.is_config(value):
        return _plain(OmegaConf.to_container(value, resolve=False, enum_to_str=True))
    return value


def _section(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    section = values.get(name)
    if not isinstance(section, dict):
        raise InputError(f"the checkpoint's configuration has no `{name}`")
    return section


def _state(stored: Any) -> dict[str, Tensor]:
    """The tensors under our names, as fp32, without those that only pre-training uses."""
    if not isinstance(stored, Mapping):
        raise InputError("not a fairseq checkpoint: it has no `model`")
    state = {}
    for name, tensor in stored.items():
        inner = name.removeprefix(PREFIX)
        if not name.startswith(PREFIX) or not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            raise InputError(f"the tensor `{name}` is unknown")
        if not inner.removeprefix("w2v_model.").startswith(PRETRAINING_ONLY):
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
            "folder: name one with --dict"
        )
    if len(units.symbols) != num_units:
        raise InputError(f"its CTC head has {num_units} units, but {source} has {len(units.symbols)} symbols")
    if stored is not None and dictionary is None and units.symbols != tuple(stored.symbols):
        raise InputError(f"its dictionary differs from {source}")
    return units, source
