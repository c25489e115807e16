"""`student_ctc`: a shallow copy of a fine-tuned wav2vec 2.0 CTC recognizer, to be distilled from it.

Students keep width, feature extractor and CTC head of the teacher and cut only its depth ("Shrinking Bigfoot", Peng
et al. 2021, section 3); narrower ones start with layers at random. The network is that of `nn/`; the checkpoint has
the names and the configuration of stock fairseq's `wav2vec_ctc`, so whatever reads those reads the student, with the
teacher's file gone.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from fairseq.dataclass import ChoiceEnum
from fairseq.models import register_model
from fairseq.tasks import FairseqTask

from ..distillation.layer_selection import SELECTIONS, check_layers, keep_layers, select_layers, starting_weights
from ..errors import InputError
from ..interop.fairseq_checkpoint import read_recognizer
from ..model_file.storage import ModelFile
from ..nn import AcousticModel, CompressionPoint, TrainingOptions
from .ctc import CtcConfig, CtcModel, check_agreement

LAYER_SELECTION_CHOICES = ChoiceEnum(SELECTIONS)
LAYER_SHAPE = ("encoder_embed_dim", "encoder_ffn_embed_dim", "encoder_attention_heads")


@dataclass
class StudentCtcConfig(CtcConfig):
    init_checkpoint: str = field(
        default="",
        metadata={"help": "fine-tuned CTC checkpoint (or .safetensors) that gives the student its shape and weights"},
    )
    encoder_layers: int = field(default=0, metadata={"help": "transformer layers of the student; 0 keeps all"})
    layer_selection: LAYER_SELECTION_CHOICES = field(  # type: ignore[valid-type]
        default="every_k", metadata={"help": "which layers of the initial checkpoint the student starts from"}
    )

    layers: list[int] = field(
        default_factory=list,
        metadata={"help": "the layers to start from, counted from 0, in place of encoder_layers and layer_selection"},
    )
    released_code_init: bool = field(
        default=False,
        metadata={"help": "positional convolution and final layer norm at random, as in the paper's released code"},
    )
    encoder_embed_dim: int = field(default=0, metadata={"help": "width of the student; 0: as the initial checkpoint"})
    encoder_ffn_embed_dim: int = field(default=0, metadata={"help": "width of its feed-forward blocks; 0: the same"})
    encoder_attention_heads: int = field(default=0, metadata={"help": "attention heads; 0: the same"})


@register_model("student_ctc", dataclass=StudentCtcConfig)
class StudentCtc(CtcModel):
    """What `CtcModel` is, started from a deeper or wider recognizer."""

    @classmethod
    def initial_network(
        cls, cfg: StudentCtcConfig, task: FairseqTask, options: TrainingOptions
    ) -> tuple[AcousticModel, CompressionPoint]:
        """The student, with what it takes from the recognizer at `init_checkpoint`; `InputError` when that has other
        units or normalization than the task.
        """
        if not cfg.init_checkpoint:
            raise InputError("model.init_checkpoint is empty; it must name a fine-tuned CTC checkpoint")
        initial = read_recognizer(Path(cfg.init_checkpoint))
        check_agreement(initial.header, task, cfg.init_checkpoint)
        kept = _kept_layers(cfg, initial.header.architecture.encoder_layers)
        return _student_of(initial, kept, cfg, options), initial.header.point.with_layers(kept)


def _kept_layers(cfg: StudentCtcConfig, available: int) -> list[int]:
    if not cfg.layers:
        return select_layers(cfg.layer_selection, available, cfg.encoder_layers or available)
    if cfg.encoder_layers not in (0, len(cfg.layers)):
        raise InputError(f"model.encoder_layers is {cfg.encoder_layers}, but model.layers has {len(cfg.layers)}")
    return check_layers(cfg.layers, available)


def _student_of(initial: ModelFile, kept: list[int], cfg: StudentCtcConfig, options: TrainingOptions) -> AcousticModel:
    shape = initial.header.architecture
    widths = {name: getattr(cfg, name) or getattr(shape, name) for name in LAYER_SHAPE}
    architecture = dataclasses.replace(shape, encoder_layers=len(kept), **widths)
    network = AcousticModel(architecture, options=options)
    start = starting_weights(
        network.state_dict(),
        keep_layers(initial.state, kept),
        same_layers=all(widths[name] == getattr(shape, name) for name in LAYER_SHAPE),
        released_code=cfg.released_code_init,
    )
    network.load_state_dict(start)
    return network
