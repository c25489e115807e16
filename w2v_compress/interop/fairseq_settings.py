"""The configuration in a fairseq checkpoint, of current fairseq (`cfg`) or of 2020-21 (`args`)."""

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any

from ..data.audio import SAMPLE_RATE
from ..data.units import Units
from ..errors import InputError
from ..model_file.header import Header
from ..nn.architecture import Architecture
from ..nn.compression import UNCOMPRESSED, CompressionPoint, CompressionSpace

PRETRAINED = ("wav2vec2", "sew", "stochastic_sew", "pooled_transformer")
FINE_TUNED = ("wav2vec_ctc", "student_ctc", "compressed_ctc")
SPACE = ("squeeze", "query_pool", "key_value_pool", "points", "layer_wise")
"""Fields of the compression space in the configuration of our tasks."""


def pretrained_settings(
    architecture: Architecture, normalize: bool, point: CompressionPoint = UNCOMPRESSED
) -> dict[str, Any]:
    """Return `w2v_args`: the settings of the pre-trained network as stock fairseq stores them when it fine-tunes one.

    The model is stock `wav2vec2` if `point` is (1, 1, 1), which is the only point that it has, else our
    `stochastic_sew`.
    """
    compressed = {} if point == UNCOMPRESSED else {"_name": "stochastic_sew", "point": str(point)}
    return {
        "model": architecture.to_fairseq() | compressed,
        "task": {"_name": "audio_pretraining", "data": "", "normalize": normalize},
    }


def default_point(settings: Mapping[str, Any]) -> CompressionPoint:
    """Return the compression point of a pre-trained network with these settings, (1, 1, 1) in stock fairseq."""
    if "squeeze_factor" in settings:  # our `sew`
        return CompressionPoint(settings["squeeze_factor"])
    return CompressionPoint.parse(settings.get("point") or str(UNCOMPRESSED))


@dataclass(frozen=True)
class CheckpointSettings:
    """The configuration in a fairseq checkpoint as plain dictionaries."""

    name: str
    """Registered name of the model."""
    model: dict[str, Any]
    """Settings of the model."""
    task: dict[str, Any]
    """Settings of the task."""

    @classmethod
    def from_checkpoint(cls, checkpoint: Mapping[str, Any], names: tuple[str, ...]) -> "CheckpointSettings":
        """Read the configuration of `checkpoint`; raise `InputError` unless its model is one of `names`."""
        configuration = _configuration(checkpoint)
        model, task = _section(configuration, "model"), _section(configuration, "task")
        name = str(model.get("_name") or model.get("arch"))
        if name not in names:
            raise InputError(f"the model is `{name}`; it must be one of {', '.join(names)}")
        rate = task.get("sample_rate", SAMPLE_RATE)
        if rate != SAMPLE_RATE:
            raise InputError(f"`task.sample_rate` is {rate!r}; it must be {SAMPLE_RATE}")
        return cls(name, model, task)

    @property
    def normalize(self) -> bool:
        """Whether the model expects each utterance at zero mean and unit variance."""
        value = self.task.get("normalize", False)
        if not isinstance(value, bool):
            raise InputError(f"`task.normalize` is {value!r}; it must be true or false")
        return value

    def header(self, units: Units) -> Header:
        """Return the header of a model file for this network with the output units `units`."""
        space, point = self._compression()
        return Header(
            architecture=self._architecture(len(units.symbols)),
            units=units,
            normalize=self.normalize,
            space=space,
            point=point,
        )

    def _architecture(self, num_units: int) -> Architecture:
        if self.model.get("blank_weight", 0) != 0:
            raise InputError(f"`blank_weight` is {self.model['blank_weight']!r}; only 0 is supported")
        settings = self._pretrained
        if self.model.get("layer_type") is not None:  # fine-tuning may override it
            settings = settings | {"layer_type": self.model["layer_type"]}
        return Architecture.from_fairseq(settings, num_units=num_units)

    def _compression(self) -> tuple[CompressionSpace, CompressionPoint]:
        """Return the compression space that the network was trained for and its default compression point."""
        point = default_point(self._pretrained)
        if self.model.get("point"):
            point = CompressionPoint.parse(self.model["point"])
        if str(self.task.get("_name")).startswith("compressed_"):
            if not self.task.get("point"):
                space = CompressionSpace.from_dict({name: self.task[name] for name in SPACE if name in self.task})
                return space, point if point in space else space.largest
            point = CompressionPoint.parse(self.task["point"])
        return CompressionSpace(points=(point,)), point

    @cached_property
    def _pretrained(self) -> dict[str, Any]:
        """The settings of the pre-trained network.

        The oldest versions of fairseq did not store them in the fine-tuned checkpoint; they are then read from the
        pre-trained checkpoint.
        """
        if self.name in PRETRAINED:
            return self.model
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
        if name not in PRETRAINED:
            raise InputError(f"the pre-trained model is `{name}`; it must be one of {', '.join(PRETRAINED)}")
        return values


def _configuration(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration with its sections `model` and `task`; in 2020-21 both are one flat namespace."""
    configuration = _plain(checkpoint.get("cfg"))
    if isinstance(configuration, dict) and configuration:
        return configuration
    arguments = _plain(checkpoint.get("args"))
    if not isinstance(arguments, dict):
        raise InputError("not a fairseq checkpoint: it has neither `cfg` nor `args`")
    return {"model": arguments, "task": arguments}


def _plain(value: Any) -> Any:
    """Convert namespaces and OmegaConf containers to dictionaries and lists, recursively.

    Raises `InputError` for values of other types than text and numbers.
    """
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
    if value is None or isinstance(value, str | int | float):
        return value
    raise InputError(f"the checkpoint's configuration has a value of the type {type(value).__name__}")


def _section(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    section = values.get(name)
    if not isinstance(section, dict):
        raise InputError(f"the checkpoint's configuration has no `{name}`")
    return section
