"""The acoustic model: feature extractor, encoder and CTC head, as trained, quantized and deployed."""

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
    """Masks over features in training: SpecAugment in the form of wav2vec 2.0 (Baevski et al. 2020, section 3.3)."""

    time: Tensor | None
    """Frames to replace by the learned mask embedding, bool `(batch, frames)`; None for no frames."""
    channels: Tensor | None
    """Channels to set to 0, bool `(batch, channels)`; None for no channels."""


@dataclass
class AcousticOutput:
    """Output of one forward pass of an `AcousticModel`."""

    logits: Tensor
    """Scores of the units before the softmax, `(batch, frames, units)`."""
    frame_lengths: Tensor | None
    """Valid frames, `(batch,)`; None if all are valid."""
    features: Tensor
    """Output of the feature extractor before the layer norm, `(batch, frames, channels)`."""
    hidden: list[Tensor] = field(default_factory=list)
    """Output of each transformer layer, `(batch, frames, channels)`; empty unless `return_hidden` was set."""


class Wav2Vec2Network(nn.Module):
    """Feature extractor and encoder without the CTC head: `w2v_encoder.w2v_model` of fairseq's models."""

    def __init__(
        self, architecture: Architecture, options: TrainingOptions, group_norm_statistics: GroupNormStatistics
    ) -> None:
        super().__init__()
        features, channels = architecture.conv_layers[-1][0], architecture.encoder_embed_dim
        self.feature_grad_mult = options.feature_grad_mult
        self.mask_emb = nn.Parameter(torch.empty(channels).uniform_())
        self.feature_extractor = FeatureExtractor(architecture, group_norm_statistics)
        self.layer_norm = nn.LayerNorm(features)
        # As in fairseq, equal numbers of channels need no projection.
        self.post_extract_proj = nn.Linear(features, channels) if features != channels else None
        self.dropout_input = nn.Dropout(options.dropout_input)
        self.encoder = Encoder(architecture, options)

    def extract_features(self, audio: Tensor, lengths: Tensor | None) -> Tensor:
        """Extract features `(batch, frames, channels)` from `audio` `(batch, samples)` with valid samples `(batch,)`.

        In training the gradient of the features is scaled by `feature_grad_mult`.
        """
        factor = self.feature_grad_mult if self.training else 1.0
        with torch.no_grad() if factor == 0 else contextlib.nullcontext():
            features: Tensor = self.feature_extractor(audio, lengths)
        if factor not in (0, 1):
            features = features * factor + features.detach() * (1 - factor)
        return features

    def encode(
        self,
        features: Tensor,
        frame_lengths: Tensor | None,
        point: CompressionPoint,
        masks: FeatureMasks | None,
        return_hidden: bool,
    ) -> tuple[Tensor, list[Tensor]]:
        """Encode `features` `(batch, frames, channels)`; return the output of the encoder and of its layers.

        `frame_lengths`, `point` and `return_hidden` are passed to `Encoder.forward`.
        """
        x = self.layer_norm(features)
        if self.post_extract_proj is not None:
            x = self.post_extract_proj(x)
        x = self.dropout_input(x)
        if masks is not None and masks.time is not None:
            x = torch.where(masks.time.unsqueeze(-1), self.mask_emb.to(x), x)
        if masks is not None and masks.channels is not None:
            x = x.masked_fill(masks.channels.unsqueeze(1), 0)
        output: tuple[Tensor, list[Tensor]] = self.encoder(x, frame_lengths, point, return_hidden)
        return output


class AcousticModel(nn.Module):
    """wav2vec 2.0 with a CTC head (Baevski et al. 2020), under fairseq's parameter names without `w2v_encoder.`.

    Given `lengths`, an utterance has the same output in a batch as alone. `group_norm_statistics` "padded" reproduces
    stock fairseq instead, which includes padding in the group norm (see `FeatureExtractor`). The model does not
    normalize the waveform: models trained with `normalize` need zero mean and unit variance.
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
        """Return the valid frames of utterances with `lengths` samples, both `(batch,)`."""
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
        return_hidden: bool = False,
        frozen: bool = False,
    ) -> AcousticOutput:
        """Run the network on 16 kHz `audio` `(batch, samples)` and return all outputs.

        Args:
            audio: Waveforms, padded to a common length.
            lengths: Valid samples `(batch,)`, or None if no row is padded.
            point: Compression point. The number of output frames is the same at every point.
            masks: Features to mask; for training.
            return_hidden: Return the output of each transformer layer too.
            frozen: Compute gradients for the CTC head only.

        Raises:
            InputError: The network does not support `point`.
        """
        frame_lengths = None if lengths is None else self.frame_lengths(lengths)
        with torch.no_grad() if frozen else contextlib.nullcontext():
            features = self.w2v_model.extract_features(audio, lengths)
            x, hidden = self.w2v_model.encode(features, frame_lengths, point, masks, return_hidden)
        return AcousticOutput(self.proj(self.final_dropout(x)), frame_lengths, features, hidden)

    def forward(
        self, audio: Tensor, lengths: Tensor | None = None, point: CompressionPoint = UNCOMPRESSED
    ) -> tuple[Tensor, Tensor]:
        """Return logits `(batch, frames, units)` and valid frames `(batch,)`; the arguments are those of `run`."""
        output = self.run(audio, lengths, point=point)
        if output.frame_lengths is None:
            return output.logits, torch.full((len(audio),), output.logits.shape[1], device=audio.device)
        return output.logits, output.frame_lengths


def initialize_linear(module: nn.Module) -> None:
    """Initialize `nn.Linear` modules as BERT and fairseq do; subclasses such as `Upsampling` are left unchanged."""
    if type(module) is nn.Linear:
        nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
