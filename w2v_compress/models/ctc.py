"""What the CTC models share: `AcousticModel` under the names of stock fairseq's `wav2vec_ctc`.

The checkpoint holds the shape of the network in `w2v_args`, as stock ones do, so it loads with the checkpoint that it
came from gone, and whatever reads stock ones reads it.
"""

import dataclasses
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any

import torch
from fairseq.data.data_utils import compute_mask_indices
from fairseq.dataclass import FairseqDataclass
from fairseq.models.wav2vec.wav2vec2 import MASKING_DISTRIBUTION_CHOICES
from fairseq.models.wav2vec.wav2vec2_asr import Wav2VecCtc
from fairseq.tasks import FairseqTask
from omegaconf import II, OmegaConf, open_dict
from torch import Tensor

from ..errors import InputError
from ..interop.fairseq_settings import default_point, pretrained_settings
from ..model_file.header import Header
from ..nn import AcousticModel, Architecture, CompressionPoint, FeatureMasks, TrainingOptions
from ..nn.lengths import valid_lengths, valid_mask


@dataclass
class CtcConfig(FairseqDataclass):
    point: str = field(
        default="",
        metadata={"help": "S,Q,K to run at unless the task chooses; empty: that of the checkpoint that it starts from"},
    )

    dropout: float = field(default=0.0, metadata={"help": "after attention and feed-forward, and before the layers"})
    attention_dropout: float = field(default=0.0, metadata={"help": "on the attention weights"})
    activation_dropout: float = field(default=0.0, metadata={"help": "inside the feed-forward block"})
    dropout_input: float = field(default=0.0, metadata={"help": "on the features, before masking"})
    final_dropout: float = field(default=0.0, metadata={"help": "before the CTC head"})
    layerdrop: float = field(default=0.0, metadata={"help": "probability of skipping a layer"})
    feature_grad_mult: float = field(
        default=1.0, metadata={"help": "factor on the gradient of the feature extractor; 0 freezes it"}
    )
    freeze_finetune_updates: int = field(default=0, metadata={"help": "updates that train the CTC head alone"})
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
    no_mask_overlap: bool = field(default=False, metadata={"help": "keep the spans apart"})
    mask_min_space: int = field(default=1, metadata={"help": "frames between spans that are kept apart"})
    require_same_masks: bool = field(default=True, metadata={"help": "mask equally many frames of each utterance"})
    mask_dropout: float = field(default=0.0, metadata={"help": "share of the masked frames to show again"})
    mask_channel_prob: float = field(default=0.0, metadata={"help": "share of channels to mask"})
    mask_channel_length: int = field(default=10, metadata={"help": "channels a span"})
    mask_channel_selection: MASKING_DISTRIBUTION_CHOICES = field(
        default="static", metadata={"help": "distribution of the span length"}
    )
    mask_channel_other: float = field(default=0, metadata={"help": "second parameter of that distribution"})
    no_mask_channel_overlap: bool = field(default=False, metadata={"help": "keep the spans of channels apart"})
    mask_channel_min_space: int = field(default=1, metadata={"help": "channels between spans that are kept apart"})

    normalize: bool = II("task.normalize")
    data: str = II("task.data")
    blank_weight: float = 0  # read by the stock get_logits
    blank_mode: str = "add"
    w2v_args: Any = field(
        default=None, metadata={"help": "shape of the network as fairseq keeps it; filled from the initial checkpoint"}
    )


class CtcModel(Wav2VecCtc):
    """A fairseq model over `AcousticModel`; logits, masking of padded frames and probabilities are the stock ones."""

    w2v_encoder: AcousticModel

    def __init__(self, cfg: CtcConfig, network: AcousticModel, point: CompressionPoint) -> None:
        """`point`: where to run when no other is asked for. `InputError` when the network lacks it."""
        super().__init__(cfg, network)
        self.num_updates = 0
        self.point = point
        network.w2v_model.encoder.pools_at(point)

    @classmethod
    def build_model(cls, cfg: CtcConfig, task: FairseqTask) -> "CtcModel":
        """The model from its initial checkpoint, or, when a checkpoint of its own is loaded, by its shape only.

        Raises `InputError` when the initial checkpoint does not go with the task, or the network lacks `point`.
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
            with open_dict(cfg):  # fairseq's task copies this into what it saves
                cfg.w2v_args = pretrained_settings(network.architecture, cfg.normalize, point)
        # fairseq builds the criterion after the model and gives it this task alone; projections need the width.
        task.student_architecture = network.architecture
        try:
            return cls(cfg, network, CompressionPoint.parse(cfg.point) if cfg.point else point)
        except InputError as error:
            raise InputError(f"model.point: {error}") from None

    @classmethod
    @abstractmethod
    def initial_network(
        cls, cfg: Any, task: FairseqTask, options: TrainingOptions
    ) -> tuple[AcousticModel, CompressionPoint]:
        """The network to train, with what it takes from an initial checkpoint, and that one's point."""

    def set_num_updates(self, num_updates: int) -> None:
        super().set_num_updates(num_updates)
        self.num_updates = num_updates

    def forward(
        self,
        source: Tensor,
        padding_mask: Tensor | None = None,
        point: CompressionPoint | None = None,
        keep_hidden: bool = False,
        **_: Any,
    ) -> dict[str, Any]:
        """(batch, samples) -> `encoder_out` (frames, batch, units), `padding_mask` (batch, frames), `features` and,
        with `keep_hidden`, `hidden`: (batch, frames, channels) after each layer. Frames are equally many at any point.
        """
        lengths = valid_lengths(padding_mask)
        output = self.w2v_encoder.run(
            source,
            lengths,
            point=self.point if point is None else point,
            masks=self._masks(source, lengths) if self.training and self.cfg.apply_mask else None,
            keep_hidden=keep_hidden,
            frozen=self.num_updates < self.cfg.freeze_finetune_updates,
        )
        padded = None
        if output.frame_lengths is not None:
            padded = ~valid_mask(output.frame_lengths, output.logits.shape[1])
        logits = output.logits.transpose(0, 1)
        return {"encoder_out": logits, "padding_mask": padded, "features": output.features, "hidden": output.hidden}

    def _masks(self, source: Tensor, lengths: Tensor | None) -> FeatureMasks:
        cfg, architecture = self.cfg, self.w2v_encoder.architecture
        batch, samples = source.shape
        frames = architecture.frames(samples)
        padded = None
        if lengths is not None:
            padded = ~valid_mask(self.w2v_encoder.frame_lengths(lengths), frames).cpu()
        time = channels = None
        if cfg.mask_prob > 0:
            time = compute_mask_indices(
                (batch, frames),
                padded,
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
                min_masks=1,  # fairseq fails on a row that draws no span at all, as the rows of narrow models may
                no_overlap=cfg.no_mask_channel_overlap,
                min_space=cfg.mask_channel_min_space,
            )
        masks = (None if mask is None else torch.from_numpy(mask).to(source.device) for mask in (time, channels))
        return FeatureMasks(*masks)


def check_agreement(header: Header, task: FairseqTask, name: str) -> None:
    """Raise `InputError` unless the model file header `header` of `name` has the task's units and normalization."""
    symbols = tuple(task.target_dictionary.symbols)
    if header.units.symbols != symbols:
        theirs, ours = len(header.units.symbols), len(symbols)
        detail = f"{theirs} units and {ours}" if theirs != ours else "the same number of units, not the same ones"
        raise InputError(f"{name}: its dictionary differs from that of task.data ({detail}); they must be equal")
    check_normalize(header, task, name)


def check_normalize(header: Header, task: FairseqTask, name: str) -> None:
    """Raise `InputError` unless the model of `name` was trained on audio normalized as the task's is."""
    if header.normalize != bool(task.cfg.normalize):
        raise InputError(
            f"{name}: it was trained with normalize={header.normalize}; task.normalize is {task.cfg.normalize} "
            "and must be the same"
        )
