"""Extractor, encoder and CTC head: the network that is trained, quantized and deployed."""

import contextlib
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .architecture import Architecture
from .compression import UNCOMPRESSED, CompressionPoint
from .encoder import Encoder
from .feature_extractor import FeatureExtractor, GroupNormStatistics
from .options import TrainingOptions


class FeatureMasks(NamedTuple):
    """Which features to hide in training (SpecAugment as wav2vec 2.0 fine-tuning does it)."""

    time: Tensor | None
    """(batch, frames) bool: these frames become the learned mask embedding."""
    channels: Tensor | None
    """(batch, channels) bool: these channels become 0."""


@dataclass
class AcousticOutput:
    """What one pass of the network gives."""

    logits: Tensor
    """(batch, frames, units), before the softmax"""
    frame_lengths: Tensor | None
    """(batch,) valid frames; None when all are"""
    features: Tensor
    """(batch, frames, channels) of the convolutional extractor, before its layer norm"""
    hidden: list[Tensor] = field(default_factory=list)
    """(batch, frames, channels) after each transformer layer, if asked for"""


class Wav2Vec2Network(nn.Module):
    """Everything but the CTC head; fairseq's `w2v_encoder.w2v_model`."""

    def __init__(
        self, architecture: Architecture, options: TrainingOptions, group_norm_statistics: GroupNormStatistics
    ) -> None:
        super().__init__()
        features, channels = architecture.conv_layers[-1][0], architecture.encoder_embed_dim
        self.feature_grad_mult = options.feature_grad_mult
        self.mask_emb = nn.Parameter(torch.empty(channels).uniform_())
        self.feature_extractor = FeatureExtractor(architecture, group_norm_statistics)
        self.layer_norm = nn.LayerNorm(features)
        # As in fairseq, there is no projection between equal widths.
        self.post_extract_proj = nn.Linear(features, channels) if features != channels else None
        self.dropout_input = nn.Dropout(options.dropout_input)
        self.encoder = Encoder(architecture, options)

    def extract(self, audio: Tensor, lengths: Tensor | None) -> Tensor:
        """Features (batch, frames, channels), with the gradient scaled by `feature_grad_mult`."""
        factor = self.feature_grad_mult if self.training else 1.0
        with torch.no_grad() if factor == 0 else contextlib.nullcontext():
            features = self.feature_extractor(audio, lengths)
        if factor not in (0, 1):
            features = features * factor + features.detach() * (1 - factor)
        return features

    def context(
        self,
        features: Tensor,
        frame_lengths: Tensor | None,
        point: CompressionPoint,
        masks: FeatureMasks | None,
        keep_hidden: bool,
    ) -> tuple[Tensor, list[Tensor]]:
        """Encoder output (batch, frames, channels) and the hidden states."""
        x = self.layer_norm(features)
        if self.post_extract_proj is not None:
            x = self.post_extract_proj(x)
        x = self.dropout_input(x)
        if masks is not None and masks.time is not None:
            x = torch.where(masks.time.unsqueeze(-1), self.mask_emb.to(x), x)
        if masks is not None and masks.channels is not None:
            x = x.masked_fill(masks.channels.unsqueeze(1), 0)
        return self.encoder(x, frame_lengths, point, keep_hidden)


class AcousticModel(nn.Module):
    """wav2vec 2.0 with a CTC head, under fairseq's parameter names (without the leading `w2v_encoder.`).

    In a batch of mixed lengths each utterance gets what it gets alone, given `lengths`; `group_norm_statistics`
    "padded" reproduces stock fairseq instead, where padding enters the group norm (see `FeatureExtractor`).
    The waveform is taken as it is: models trained with `normalize` want zero mean and unit variance.
    """

    def __init__(
        self,
        architecture: Architecture,
        *,
        options: TrainingOptions | None = None,
        group_norm_statistics: GroupNormStatistics = "valid",
    ) -> None:
        super().__init__()
        options = options or TrainingOptions()
        self.architecture = architecture
        self.w2v_model = Wav2Vec2Network(architecture, options, group_norm_statistics)
        self.final_dropout = nn.Dropout(options.final_dropout)
        self.proj = nn.Linear(architecture.encoder_embed_dim, architecture.num_units)
        self.w2v_model.encoder.apply(initialize_linear)
        nn.init.xavier_uniform_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    def frame_lengths(self, lengths: Tensor) -> Tensor:
        """Valid frames of utterances of `lengths` samples, both (batch,)."""
        for _, kernel, stride in self.architecture.conv_layers:
            lengths = torch.div(lengths - kernel, stride, rounding_mode="floor") + 1
        return lengths.clamp(min=0)

    def run(
        self,
        audio: Tensor,
        lengths: Tensor | None = None,
        *,
        point: CompressionPoint = UNCOMPRESSED,
        masks: FeatureMasks | None = None,
        keep_hidden: bool = False,
        frozen: bool = False,
    ) -> AcousticOutput:
        """(batch, samples) and valid samples (batch,), or None when all rows are full -> `AcousticOutput`.

        Frames are those of (1, 1, 1) at every `point`. With `frozen`, only the CTC head gets gradients.
        """
        frame_lengths = None if lengths is None else self.frame_lengths(lengths)
        with torch.no_grad() if frozen else contextlib.nullcontext():
            features = self.w2v_model.extract(audio, lengths)
            x, hidden = self.w2v_model.context(features, frame_lengths, point, masks, keep_hidden)
        return AcousticOutput(self.proj(self.final_dropout(x)), frame_lengths, features, hidden)

    def forward(
        self, audio: Tensor, lengths: Tensor | None = None, point: CompressionPoint = UNCOMPRESSED
    ) -> tuple[Tensor, Tensor]:
        """(batch, samples), valid samples (batch,) or None -> logits (batch, frames, units), frames (batch,)"""
        output = self.run(audio, lengths, point=point)
        if output.frame_lengths is None:
            return output.logits, torch.full((len(audio),), output.logits.shape[1], device=audio.device)
        return output.logits, output.frame_lengths


def initialize_linear(module: nn.Module) -> None:
    """BERT's initialization, as fairseq gives the transformer layers; `Upsampling` has its own."""
    if type(module) is nn.Linear:
        nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
