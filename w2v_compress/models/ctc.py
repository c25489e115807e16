"""Base of the CTC models: `AcousticModel` with the parameter names of stock fairseq's `wav2vec_ctc`.

A checkpoint has the shape of the network in `w2v_args`, as in stock fairseq, so it loads without its initial
checkpoint, and programs that read stock checkpoints can read it.
"""

import contextlib
import dataclasses
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from fairseq.data.data_utils import compute_mask_indices
from fairseq.dataclass import FairseqDataclass
from fairseq.models.wav2vec.wav2vec2 import MASKING_DISTRIBUTION_CHOICES
from fairseq.models.wav2vec.wav2vec2_asr import Wav2VecCtc
from fairseq.tasks import FairseqTask
from omegaconf import II, OmegaConf, open_dict
from torch import Tensor

from ..errors import InputError, prefixed
from ..interop.fairseq_settings import default_point, pretrained_settings
from ..model_file.header import Header
from ..nn.acoustic_model import AcousticModel, FeatureMasks
from ..nn.architecture import Architecture
from ..nn.compression import CompressionPoint
from ..nn.lengths import valid_lengths, valid_mask
from ..nn.options import TrainingOptions


@dataclass
class CtcConfig(FairseqDataclass):
    """Settings that all CTC models share."""

    point: str = field(
        default="",
        metadata={"help": "default compression point S,Q,K, such as 2,1,1; empty: the point of the initial checkpoint"},
    )
    learned_upsampling: list[int] = field(
        default_factory=list,
        metadata={
            "help": "squeeze factors, from 2 to 16, with learned upsampling, which starts as repetition of frames; "
            "ignored if the initial checkpoint has learned upsampling"
        },
    )
    centered_positions: bool = field(
        default=False,
        metadata={
            "help": "centre the window of the positional convolution on the frames that are squeezed together; on if "
            "the initial checkpoint has it"
        },
    )

    dropout: float = field(
        default=0.0,
        metadata={
            "help": "dropout probability, 0 to 1, after attention, after feed-forward, and before the first layer"
        },
    )
    attention_dropout: float = field(
        default=0.0, metadata={"help": "dropout probability, 0 to 1, of the attention weights"}
    )
    activation_dropout: float = field(
        default=0.0, metadata={"help": "dropout probability, 0 to 1, after the activation of the feed-forward block"}
    )
    dropout_input: float = field(
        default=0.0, metadata={"help": "dropout probability, 0 to 1, of the features before masking"}
    )
    final_dropout: float = field(default=0.0, metadata={"help": "dropout probability, 0 to 1, before the CTC head"})
    layerdrop: float = field(default=0.0, metadata={"help": "probability, 0 to 1, of skipping a transformer layer"})
    feature_grad_mult: float = field(
        default=1.0, metadata={"help": "factor on the gradient of the feature extractor, 0 or above; 0 freezes it"}
    )
    freeze_finetune_updates: int = field(
        default=0, metadata={"help": "number of initial updates that train only the CTC head; 0 or above"}
    )
    checkpoint_activations: bool = field(
        default=False,
        metadata={"help": "recompute the layers in the backward pass, which takes less memory and more time"},
    )
    autocast: bool = field(
        default=False,
        metadata={"help": "compute in bf16 with fp32 weights; for CPUs with AMX, where narrow networks may not gain"},
    )

    apply_mask: bool = field(default=False, metadata={"help": "whether to mask features in training"})
    mask_prob: float = field(default=0.5, metadata={"help": "fraction of frames to mask, 0 to 1, before spans overlap"})
    mask_length: int = field(default=10, metadata={"help": "length of a masked span in frames, 1 or above"})
    mask_selection: MASKING_DISTRIBUTION_CHOICES = field(
        default="static", metadata={"help": "distribution of span lengths: static, uniform, normal or poisson"}
    )
    mask_other: float = field(
        default=0, metadata={"help": "second parameter of the distribution mask_selection, in frames"}
    )
    no_mask_overlap: bool = field(default=False, metadata={"help": "whether masked spans must not overlap"})
    mask_min_space: int = field(
        default=1, metadata={"help": "least number of frames between masked spans if no_mask_overlap"}
    )
    require_same_masks: bool = field(
        default=True, metadata={"help": "whether to mask the same number of frames in all utterances of a batch"}
    )
    mask_dropout: float = field(default=0.0, metadata={"help": "fraction of masked frames to unmask, 0 to 1"})
    mask_channel_prob: float = field(default=0.0, metadata={"help": "fraction of channels to mask, 0 to 1"})
    mask_channel_length: int = field(default=10, metadata={"help": "length of a masked span in channels, 1 or above"})
    mask_channel_selection: MASKING_DISTRIBUTION_CHOICES = field(
        default="static",
        metadata={"help": "distribution of span lengths in channels: static, uniform, normal or poisson"},
    )
    mask_channel_other: float = field(
        default=0, metadata={"help": "second parameter of the distribution mask_channel_selection, in channels"}
    )
    no_mask_channel_overlap: bool = field(
        default=False, metadata={"help": "whether masked spans of channels must not overlap"}
    )
    mask_channel_min_space: int = field(
        default=1, metadata={"help": "least number of channels between masked spans if no_mask_channel_overlap"}
    )

    normalize: bool = field(
        default=II("task.normalize"), metadata={"help": "whether audio is normalized; set from the task, not by users"}
    )
    data: str = field(default=II("task.data"), metadata={"help": "manifest folder; set from the task, not by users"})
    blank_weight: float = field(default=0, metadata={"help": "value to add to or set as the logit of the CTC blank"})
    blank_mode: str = field(default="add", metadata={"help": "use of blank_weight: add or set"})
    w2v_args: Any = field(
        default=None,
        metadata={"help": "settings of the network in fairseq's format; set from the initial checkpoint, not by users"},
    )


class CtcModel(Wav2VecCtc):
    """fairseq model around `AcousticModel`. Logits and probabilities, also of padded frames, are the stock ones."""

    w2v_encoder: AcousticModel

    def __init__(self, cfg: CtcConfig, network: AcousticModel, point: CompressionPoint) -> None:
        """Wrap `network`, with `point` as its default. Raises `InputError` if the network does not support it."""
        super().__init__(cfg, network)
        self.num_updates = 0
        self.point = point
        network.w2v_model.encoder.pools_per_layer(point)

    @classmethod
    def build_model(cls, cfg: CtcConfig, task: FairseqTask) -> "CtcModel":
        """Build the model from its initial checkpoint, or, to load a checkpoint of its own, only with its shape.

        Raises `InputError` if the initial checkpoint is not valid for the task, or the network lacks `point`.
        """
        names = {choice.name for choice in dataclasses.fields(TrainingOptions)} - {"layerdrop_by_seed"}
        options = TrainingOptions(layerdrop_by_seed=True, **{name: getattr(cfg, name) for name in names})
        if cfg.w2v_args is not None:
            settings: Any = OmegaConf.to_container(OmegaConf.create(cfg.w2v_args["model"]))
            point = default_point(settings)
            architecture = Architecture.from_fairseq(settings, num_units=len(task.target_dictionary))
            network = AcousticModel(architecture, options=options)
        else:
            network, point = cls.initial_network(cfg, task, options)
            with open_dict(cfg):  # fairseq's task copies w2v_args into checkpoints
                cfg.w2v_args = pretrained_settings(network.architecture, cfg.normalize, point)
        # fairseq builds the criterion after the model, from the task only, and its projections need the width.
        task.student_architecture = network.architecture
        with prefixed("model.point"):
            return cls(cfg, network, CompressionPoint.parse(cfg.point) if cfg.point else point)

    @classmethod
    @abstractmethod
    def initial_network(
        cls, cfg: Any, task: FairseqTask, options: TrainingOptions
    ) -> tuple[AcousticModel, CompressionPoint]:
        """Return the network to train, initialized from a checkpoint, and the point of that checkpoint."""

    def set_num_updates(self, num_updates: int) -> None:
        """Set the number of completed updates, which ends the freezing of `freeze_finetune_updates`."""
        super().set_num_updates(num_updates)
        self.num_updates = num_updates

    def forward(
        self,
        source: Tensor,
        padding_mask: Tensor | None = None,
        point: CompressionPoint | None = None,
        return_hidden: bool = False,
        **_: Any,
    ) -> dict[str, Any]:
        """Run on `source` (batch, samples) at `point`, by default the model's own.

        Returns `encoder_out` (frames, batch, units), `padding_mask` (batch, frames) or None, `features`, and, with
        `return_hidden`, `hidden`: (batch, frames, channels) after each layer. The number of frames is independent of
        the point.
        """
        lengths = valid_lengths(padding_mask)
        masks = self._masks(source, lengths) if self.training and self.cfg.apply_mask else None
        with torch.autocast(source.device.type, torch.bfloat16) if self.cfg.autocast else contextlib.nullcontext():
            output = self.w2v_encoder.run(
                source,
                lengths,
                point=self.point if point is None else point,
                masks=masks,
                return_hidden=return_hidden,
                frozen=self.num_updates < self.cfg.freeze_finetune_updates,
            )
        padded = None
        if output.frame_lengths is not None:
            padded = ~valid_mask(output.frame_lengths, output.logits.shape[1])
        logits = output.logits.transpose(0, 1)
        return {"encoder_out": logits, "padding_mask": padded, "features": output.features, "hidden": output.hidden}

    def intermediate_logits(self, hidden: Tensor) -> Tensor:
        """Return the logits (frames, batch, units) that the CTC head gives to `hidden` (batch, frames, channels)."""
        encoder = self.w2v_encoder.w2v_model.encoder
        if encoder.layer_norm_first:  # the outputs of the layers are not normalized
            hidden = encoder.layer_norm(hidden.float())
        return self.w2v_encoder.proj(self.w2v_encoder.final_dropout(hidden.float())).transpose(0, 1)

    def _masks(self, source: Tensor, lengths: Tensor | None) -> FeatureMasks:
        cfg, architecture = self.cfg, self.w2v_encoder.architecture
        batch, samples = source.shape
        frames = architecture.frames(samples)
        valid = torch.full((batch,), frames) if lengths is None else self.w2v_encoder.frame_lengths(lengths).cpu()
        time = channels = None
        # fairseq masks at least two spans, and fails if they cover all frames; such utterances stay unmasked.
        rows = valid > 2 * cfg.mask_length
        if cfg.mask_prob > 0 and rows.any():
            time = np.zeros((batch, frames), bool)
            time[rows.numpy()] = compute_mask_indices(
                (int(rows.sum()), frames),
                None if lengths is None else ~valid_mask(valid[rows], frames),
                *(cfg.mask_prob, cfg.mask_length, cfg.mask_selection, cfg.mask_other),
                min_masks=2,
                no_overlap=cfg.no_mask_overlap,
                min_space=cfg.mask_min_space,
                require_same_masks=cfg.require_same_masks,
                mask_dropout=cfg.mask_dropout,
            )
        if cfg.mask_channel_prob > 0:
            channels = compute_mask_indices(
                (batch, architecture.encoder_embed_dim),
                None,
                *(cfg.mask_channel_prob, cfg.mask_channel_length, cfg.mask_channel_selection, cfg.mask_channel_other),
                min_masks=1,  # fairseq fails on a row without any span, which narrow models may draw
                no_overlap=cfg.no_mask_channel_overlap,
                min_space=cfg.mask_channel_min_space,
            )
        masks = (None if mask is None else torch.from_numpy(mask).to(source.device) for mask in (time, channels))
        return FeatureMasks(*masks)


def elastic_fields(cfg: CtcConfig, initial: Header) -> dict[str, Any]:
    """Return the fields of `Architecture` that `cfg` adds to the network of `initial`: upsampling, centred positions.

    Learned upsampling starts as repetition, so the network has the same output; that of the initial network is kept.
    """
    fields: dict[str, Any] = {"centered_positions": cfg.centered_positions or initial.architecture.centered_positions}
    if cfg.learned_upsampling and not initial.architecture.learned_upsampling:
        fields |= {"learned_upsampling": tuple(cfg.learned_upsampling), "upsampling_activation": "none"}
    return fields


def check_units_and_normalization(header: Header, task: FairseqTask, name: str) -> None:
    """Raise `InputError` unless the model `name` with this `header` has the task's units and normalization."""
    symbols = tuple(task.target_dictionary.symbols)
    if header.units.symbols != symbols:
        theirs, ours = len(header.units.symbols), len(symbols)
        detail = f"{theirs} units and {ours}" if theirs != ours else "the same number of units, not the same ones"
        raise InputError(f"{name}: its dictionary differs from that of task.data ({detail}); they must be equal")
    check_normalization(header, task, name)


def check_normalization(header: Header, task: FairseqTask, name: str) -> None:
    """Raise `InputError` unless the model `name` with this `header` has the task's normalization."""
    if header.normalize != bool(task.cfg.normalize):
        raise InputError(
            f"{name}: it was trained with normalize={header.normalize}; task.normalize is {task.cfg.normalize} "
            "and must be the same"
        )
