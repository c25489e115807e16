"""`student_ctc`: a shallow copy of a fine-tuned wav2vec 2.0 CTC recognizer, to be distilled from it.

Students keep width, feature extractor and CTC head of the teacher and cut only its depth ("Shrinking Bigfoot", Peng
et al. 2021, section 3); narrower ones start with layers at random. The network is that of `nn/`; the checkpoint has
the names and the configuration of stock fairseq's `wav2vec_ctc`, so whatever reads those reads the student, with the
teacher's file gone.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from fairseq.data.data_utils import compute_mask_indices
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.models import register_model
from fairseq.models.wav2vec.wav2vec2 import MASKING_DISTRIBUTION_CHOICES
from fairseq.models.wav2vec.wav2vec2_asr import Wav2VecCtc
from fairseq.tasks import FairseqTask
from omegaconf import II, open_dict
from torch import Tensor

from ..errors import InputError
from ..nn import AcousticModel, Architecture, FeatureMasks, TrainingOptions
from ..nn.feature_extractor import valid_mask
from ..nn.layer_selection import SELECTIONS, check_layers, keep_layers, select_layers, starting_weights
from ..runtime.fairseq_checkpoint import pretrained_settings, read_recognizer
from ..runtime.model_file import Header
from .teacher import valid_lengths

LAYER_SELECTION_CHOICES = ChoiceEnum(SELECTIONS)
LAYER_SHAPE = ("encoder_embed_dim", "encoder_ffn_embed_dim", "encoder_attention_heads")


@dataclass
class StudentCtcConfig(FairseqDataclass):
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

    dropout: float = field(default=0.0, metadata={"help": "after attention and feed-forward, and before the layers"})
    attention_dropout: float = field(default=0.0, metadata={"help": "on the attention weights"})
    activation_dropout: float = field(default=0.0, metadata={"help": "inside the feed-forward block"})
    dropout_input: float = field(default=0.0, metadata={"help": "on the features, before masking"})
    final_dropout: float = field(default=0.0, metadata={"help": "before the CTC head"})
    layerdrop: float = field(default=0.0, metadata={"help": "probability of skipping a layer"})
    feature_grad_mult: float = field(
        default=1.0, metadata={"help": "factor on the gradient of the feature extractor; 0 freezes it"}
    )

    checkpoint_activations: bool = field(
        default=False, metadata={"help": "compute the layers again in the backward pass: less memory, more time"}
    )

    apply_mask: bool = field(default=False, metadata={"help": "mask features in training"})
    mask_prob: float = field(default=0.5, metadata={"help": "share of frames to mask (spans overlap)"})
    mask_length: int = field(default=10, metadata={"help": "frames a span"})
    mask_selection: MASKING_DISTRIBUTION_CHOICES = field(
        default="static", metadata={"help": "distribution of the span length"}
    )
    mask_other: float = field(default=0, metadata={"help": "second parameter of that distribution"})
    mask_channel_prob: float = field(default=0.0, metadata={"help": "share of channels to mask"})
    mask_channel_length: int = field(default=10, metadata={"help": "channels a span"})

    normalize: bool = II("task.normalize")
    data: str = II("task.data")
    blank_weight: float = 0  # read by the stock get_logits
    blank_mode: str = "add"
    w2v_args: Any = field(
        default=None, metadata={"help": "shape of the network as fairseq keeps it; filled from the initial checkpoint"}
    )


@register_model("student_ctc", dataclass=StudentCtcConfig)
class StudentCtc(Wav2VecCtc):
    """A fairseq model over `AcousticModel`; logits, masking of padded frames and probabilities are the stock ones."""

    w2v_encoder: AcousticModel

    @classmethod
    def build_model(cls, cfg: StudentCtcConfig, task: FairseqTask) -> "StudentCtc":
        """The student, from its initial checkpoint, or, when a checkpoint of its own is loaded, by its shape only.

        Raises `InputError` when the initial checkpoint has other units or normalization than the task.
        """
        options = TrainingOptions(
            **{choice.name: getattr(cfg, choice.name) for choice in dataclasses.fields(TrainingOptions)}
        )
        if cfg.w2v_args is not None:
            architecture = Architecture.from_fairseq(cfg.w2v_args["model"], num_units=len(task.target_dictionary))
            network = AcousticModel(architecture, options=options)
        else:
            network = _from_initial(cfg, task, options)
            with open_dict(cfg):  # fairseq's task copies this into what it saves
                cfg.w2v_args = pretrained_settings(network.architecture, cfg.normalize)
        # fairseq builds the criterion after the model and gives it this task alone; projections need the width.
        task.student_architecture = network.architecture
        return cls(cfg, network)

    def forward(
        self, source: Tensor, padding_mask: Tensor | None = None, keep_hidden: bool = False, **_: Any
    ) -> dict[str, Any]:
        """(batch, samples) -> `encoder_out` (frames, batch, units), `padding_mask` (batch, frames), `features` and,
        with `keep_hidden`, `hidden`: (batch, frames, channels) after each layer."""
        lengths = valid_lengths(padding_mask)
        masks = self._masks(source, lengths) if self.training and self.cfg.apply_mask else None
        output = self.w2v_encoder.run(source, lengths, masks=masks, keep_hidden=keep_hidden)
        padded = None
        if output.frame_lengths is not None:
            padded = ~valid_mask(output.frame_lengths, output.logits.shape[1])
        logits = output.logits.transpose(0, 1)
        return {"encoder_out": logits, "padding_mask": padded, "features": output.features, "hidden": output.hidden}

    def _masks(self, source: Tensor, lengths: Tensor | None) -> FeatureMasks:
        batch, samples = source.shape
        architecture = self.w2v_encoder.architecture
        frames = architecture.frames(samples)
        padded = None
        if lengths is not None:
            padded = ~valid_mask(self.w2v_encoder.frame_lengths(lengths), frames).cpu()
        time = channels = None
        if self.cfg.mask_prob > 0:
            spans = (self.cfg.mask_prob, self.cfg.mask_length, self.cfg.mask_selection, self.cfg.mask_other)
            time = torch.from_numpy(compute_mask_indices((batch, frames), padded, *spans, min_masks=2))
        if self.cfg.mask_channel_prob > 0:
            shape = (batch, architecture.encoder_embed_dim)
            spans = (self.cfg.mask_channel_prob, self.cfg.mask_channel_length, "static", 0.0)
            # fairseq fails on a row that draws no span at all, as the rows of narrow models may.
            channels = torch.from_numpy(compute_mask_indices(shape, None, *spans, min_masks=1))
        device = source.device
        return FeatureMasks(*(None if mask is None else mask.to(device) for mask in (time, channels)))


def _from_initial(cfg: StudentCtcConfig, task: FairseqTask, options: TrainingOptions) -> AcousticModel:
    """The student's network, with what it takes from the initial checkpoint."""
    if not cfg.init_checkpoint:
        raise InputError("model.init_checkpoint is empty; it must name a fine-tuned CTC checkpoint")
    initial = read_recognizer(Path(cfg.init_checkpoint))
    check_agreement(initial.header, task, cfg.init_checkpoint)
    shape = initial.header.architecture
    if cfg.layers:
        if cfg.encoder_layers not in (0, len(cfg.layers)):
            raise InputError(f"model.encoder_layers is {cfg.encoder_layers}, but model.layers has {len(cfg.layers)}")
        kept = check_layers(cfg.layers, shape.encoder_layers)
    else:
        kept = select_layers(cfg.layer_selection, shape.encoder_layers, cfg.encoder_layers or shape.encoder_layers)
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


def check_agreement(header: Header, task: FairseqTask, name: str) -> None:
    """Raise `InputError` unless the model file header `header` of `name` has the task's units and normalization."""
    symbols = tuple(task.target_dictionary.symbols)
    if header.units.symbols != symbols:
        theirs, ours = len(header.units.symbols), len(symbols)
        detail = f"{theirs} units and {ours}" if theirs != ours else "the same number of units, not the same ones"
        raise InputError(f"{name}: its dictionary differs from that of task.data ({detail}); they must be equal")
    if header.normalize != bool(task.cfg.normalize):
        raise InputError(
            f"{name}: it was trained with normalize={header.normalize}; task.normalize is {task.cfg.normalize} "
            "and must be the same"
        )
