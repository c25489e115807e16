"""`student_ctc`: a shallow copy of a fine-tuned wav2vec 2.0 CTC recognizer, to be distilled from it.

Students have the width, feature extractor and CTC head of the teacher and fewer layers ("Shrinking Bigfoot", Peng et
al. 2021, section 3). The layers of narrower students start at random. Checkpoints have the names and settings of stock
fairseq's `wav2vec_ctc`, so programs that read those can read the student, without the teacher's file.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from fairseq.dataclass import ChoiceEnum
from fairseq.models import register_model
from fairseq.tasks import FairseqTask

from ..distillation.layer_selection import SELECTIONS, check_layers, choose_layers, extract_layers, initial_weights
from ..errors import InputError
from ..interop.fairseq_checkpoint import read_recognizer
from ..model_file.storage import ModelFile
from ..nn.acoustic_model import AcousticModel
from ..nn.compression import CompressionPoint
from ..nn.options import TrainingOptions
from .ctc import CtcConfig, CtcModel, check_units_and_normalization, elastic_fields

LAYER_SELECTION_CHOICES = ChoiceEnum(SELECTIONS)
LAYER_SHAPE = ("encoder_embed_dim", "encoder_ffn_embed_dim", "encoder_attention_heads")


@dataclass
class StudentCtcConfig(CtcConfig):
    """Settings of `student_ctc`."""

    init_checkpoint: str = field(
        default="",
        metadata={
            "help": "path of the fine-tuned CTC checkpoint (.pt or .safetensors) with the initial shape and weights"
        },
    )
    encoder_layers: int = field(
        default=0, metadata={"help": "number of transformer layers; 0: as many as the initial checkpoint"}
    )
    layer_selection: LAYER_SELECTION_CHOICES = field(  # type: ignore[valid-type]
        default="every_k",
        metadata={"help": "layers of the initial checkpoint to copy: every_k (evenly spaced), first_k or last_k"},
    )

    layers: list[int] = field(
        default_factory=list,
        metadata={"help": "indices, from 0, of the layers to copy; replaces encoder_layers and layer_selection"},
    )
    released_code_init: bool = field(
        default=False,
        metadata={
            "help": "initialize positional convolution and final layer norm at random, as in the code of Peng et al."
        },
    )
    encoder_embed_dim: int = field(
        default=0, metadata={"help": "width of the encoder in channels; 0: as in the initial checkpoint"}
    )
    encoder_ffn_embed_dim: int = field(
        default=0, metadata={"help": "width of the feed-forward blocks in channels; 0: as in the initial checkpoint"}
    )
    encoder_attention_heads: int = field(
        default=0, metadata={"help": "number of attention heads per layer; 0: as in the initial checkpoint"}
    )


@register_model("student_ctc", dataclass=StudentCtcConfig)
class StudentCtc(CtcModel):
    """CTC model that is initialized from a deeper or wider recognizer."""

    @classmethod
    def initial_network(
        cls, cfg: StudentCtcConfig, task: FairseqTask, options: TrainingOptions
    ) -> tuple[AcousticModel, CompressionPoint]:
        """Return the student, initialized from the recognizer at `init_checkpoint`, and its point.

        Raises `InputError` if the recognizer has other units or another normalization than the task.
        """
        if not cfg.init_checkpoint:
            raise InputError("model.init_checkpoint is empty; it must name a fine-tuned CTC checkpoint")
        initial = read_recognizer(Path(cfg.init_checkpoint))
        check_units_and_normalization(initial.header, task, cfg.init_checkpoint)
        layers = _layers_to_copy(cfg, initial.header.architecture.encoder_layers)
        return _build_student(initial, layers, cfg, options), initial.header.point.for_layers(layers)


def _layers_to_copy(cfg: StudentCtcConfig, available: int) -> list[int]:
    if not cfg.layers:
        return choose_layers(cfg.layer_selection, available, cfg.encoder_layers or available)
    if cfg.encoder_layers not in (0, len(cfg.layers)):
        raise InputError(f"model.encoder_layers is {cfg.encoder_layers}, but model.layers has {len(cfg.layers)}")
    return check_layers(cfg.layers, available)


def _build_student(
    initial: ModelFile, layers: list[int], cfg: StudentCtcConfig, options: TrainingOptions
) -> AcousticModel:
    shape = initial.header.architecture
    widths = {name: getattr(cfg, name) or getattr(shape, name) for name in LAYER_SHAPE}
    architecture = dataclasses.replace(
        shape, encoder_layers=len(layers), **widths, **elastic_fields(cfg, initial.header)
    )
    network = AcousticModel(architecture, options=options)
    state = initial_weights(
        network.state_dict(),
        extract_layers(initial.state, layers),
        same_layers=all(widths[name] == getattr(shape, name) for name in LAYER_SHAPE),
        released_code=cfg.released_code_init,
    )
    network.load_state_dict(state)
    return network
