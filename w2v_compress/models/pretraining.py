"""Base of the pre-training models: fairseq's `wav2vec2` with the feature extractor and encoder of `nn/`.

Masks, negatives, quantizer, logits and losses are those of wav2vec 2.0 (Baevski et al. 2020, section 3) at the frame
rate of the feature extractor: masks are applied before the squeeze, and the loss is computed after upsampling.
Parameters have the names of stock fairseq, and stock `wav2vec_ctc` can fine-tune these models at their own point.
"""

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config, Wav2Vec2Model
from fairseq.modules import GradMultiply
from omegaconf import OmegaConf, open_dict
from torch import Tensor, nn

from ..errors import InputError, prefixed
from ..interop.fairseq_checkpoint import read_tensors
from ..interop.fairseq_settings import default_point
from ..nn.acoustic_model import initialize_linear
from ..nn.architecture import Architecture
from ..nn.compression import CompressionPoint
from ..nn.encoder import Encoder
from ..nn.feature_extractor import FeatureExtractor
from ..nn.lengths import valid_lengths, valid_mask
from ..nn.options import TrainingOptions

logger = logging.getLogger(__name__)
MLP_CHANNELS = 4096
"""Hidden width of the MLP heads (Wu et al. 2021)."""


@dataclass
class PretrainingConfig(Wav2Vec2Config):
    """Settings of stock `wav2vec2`, and those that all pre-training models share."""

    init_checkpoint: str = field(
        default="",
        metadata={
            "help": "path of a checkpoint whose tensors are copied if name and shape match; empty: start at random"
        },
    )
    mlp_heads: bool = field(
        default=False, metadata={"help": "use heads of two layers with batch norm, as in SEW, instead of linear maps"}
    )
    w2v_args: Any = field(
        default=None, metadata={"help": "record that init_checkpoint has been read; set in checkpoints, not by users"}
    )


class PretrainingModel(Wav2Vec2Model):
    """Stock `wav2vec2` at a compression point; at (1, 1, 1) it computes the same function.

    Unlike in stock fairseq, the result for an utterance is independent of padding, also with group norm
    (`extractor_mode: default`).
    """

    encoder_class = Encoder
    encoder: Encoder

    def __init__(self, cfg: PretrainingConfig) -> None:
        """Build the model. Raises `InputError` for settings of stock `wav2vec2` that are not supported."""
        settings: Any = OmegaConf.to_container(OmegaConf.create(cfg), resolve=False, enum_to_str=True)
        with prefixed("model"):
            architecture = Architecture.from_fairseq(settings, num_units=1)  # without a head
            point = default_point(settings)
        # The stock encoder is replaced below, so it is created without layers.
        super().__init__(OmegaConf.merge(cfg, {"encoder_layers": 0}))
        self.cfg = cfg
        self.point = point
        self.architecture = architecture
        self.feature_extractor = FeatureExtractor(architecture)
        options = TrainingOptions(
            dropout=cfg.dropout,
            attention_dropout=cfg.attention_dropout,
            activation_dropout=cfg.activation_dropout,
            layerdrop=cfg.encoder_layerdrop,
            layerdrop_by_seed=True,
            checkpoint_activations=cfg.checkpoint_activations,
        )
        self.encoder = self.encoder_class(architecture, options)
        self.encoder.apply(initialize_linear)
        with prefixed("model"):
            self.encoder.pools_per_layer(self.point)
        if cfg.mlp_heads:
            for name in ("project_q", "final_proj"):
                linear = getattr(self, name)
                setattr(self, name, MlpHead(linear.in_features, linear.out_features))

    @classmethod
    def build_model(cls, cfg: PretrainingConfig, task: Any = None) -> "PretrainingModel":
        """Build the model and copy the matching tensors of `init_checkpoint`."""
        model = cls(cfg)
        if cfg.init_checkpoint and cfg.w2v_args is None:
            load_matching_tensors(model, Path(cfg.init_checkpoint))
            with open_dict(cfg):  # the only field that fairseq's task copies into checkpoints
                cfg.w2v_args = {"init_checkpoint": cfg.init_checkpoint}
        return model

    def forward(
        self,
        source: Tensor,
        padding_mask: Tensor | None = None,
        mask: bool = True,
        features_only: bool = False,
        layer: int | None = None,
        mask_indices: Tensor | None = None,
        mask_channel_indices: Tensor | None = None,
        padding_count: int | None = None,
        point: CompressionPoint | None = None,
    ) -> dict[str, Any]:
        """Run on `source` (batch, samples) at `point`, by default the model's own, with the outputs of stock fairseq.

        `x` is the logits (1 + negatives, batch, masked frames), with the inputs of `get_extra_losses` beside it. With
        `features_only`, `x` is (batch, frames, channels): the output of the encoder, or of `layer` if it is given.
        """
        features, padded = self._extract(source, padding_mask)
        penalty = features.float().pow(2).mean()
        features = self.layer_norm(features)
        unmasked = features.clone()  # masking is in place
        x = self.dropout_input(features if self.post_extract_proj is None else self.post_extract_proj(features))
        unmasked = self.dropout_features(unmasked)
        if mask:
            x, mask_indices = self.apply_mask(x, padded, mask_indices, mask_channel_indices)
        else:
            mask_indices = None
        lengths = None if padded is None else (~padded).sum(1)
        x, hidden = self.encoder(x, lengths, self.point if point is None else point, return_hidden=layer is not None)
        if features_only:
            x = x if layer is None else hidden[layer]
            results = [(state.transpose(0, 1), None, None) for state in hidden]
            return {"x": x, "padding_mask": padded, "features": unmasked, "layer_results": results}
        targets, negatives, statistics = self._targets(unmasked, mask_indices, padding_count)
        logits = self.compute_preds(self.final_proj(_masked(x, mask_indices)), targets, negatives)
        return {"x": logits, "padding_mask": padded, "features_pen": penalty, **statistics}

    def _extract(self, source: Tensor, padding_mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return features (batch, frames, channels) and their padding mask (batch, frames), or None without padding."""
        lengths = valid_lengths(padding_mask)
        trained = self.feature_grad_mult > 0
        with contextlib.nullcontext() if trained else torch.no_grad():
            features = self.feature_extractor(source, lengths)
        if trained and self.feature_grad_mult != 1.0:
            features = GradMultiply.apply(features, self.feature_grad_mult)
        if lengths is None:
            return features, None
        for _, kernel, stride in self.architecture.conv_layers:
            lengths = (lengths - kernel) // stride + 1
        return features, ~valid_mask(lengths, features.shape[1])

    def _targets(
        self, unmasked: Tensor, mask_indices: Tensor | None, padding_count: int | None
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Return targets, negatives and statistics of the codebook.

        Targets are (batch, masked frames, channels), negatives (negatives, batch, masked frames, channels).
        """
        y = unmasked if self.negatives_from_everywhere else _masked(unmasked, mask_indices)
        statistics = {}
        if self.quantizer is not None:
            quantized = self.quantizer(y, produce_targets=False)
            y = quantized["x"]
            statistics = {name: quantized[name] for name in ("prob_perplexity", "code_perplexity", "num_vars", "temp")}
        y = self.project_q(y)
        targets = _masked(y, mask_indices) if self.negatives_from_everywhere else y
        negatives, _ = self.sample_negatives(y, targets.shape[1], padding_count=padding_count)
        if self.quantizer is not None and self.codebook_negatives > 0:
            drawn = self.quantizer.sample_from_codebook(targets.shape[0] * targets.shape[1], self.codebook_negatives)
            drawn = drawn.view(self.codebook_negatives, *targets.shape[:2], -1)
            negatives = torch.cat([negatives, self.project_q(drawn)], dim=0)
        if self.target_glu is not None:
            targets, negatives = self.target_glu(targets), self.target_glu(negatives)
        return targets, negatives, statistics

    def extract_features(
        self,
        source: Tensor,
        padding_mask: Tensor | None,
        mask: bool = False,
        layer: int | None = None,
        point: CompressionPoint | None = None,
    ) -> dict[str, Any]:
        """Return the output of `forward` with `features_only`, as stock fine-tuning needs it.

        `layer_results` has the states after each layer only if `layer` is given.
        """
        return self.forward(source, padding_mask, mask=mask, features_only=True, layer=layer, point=point)

    def quantize(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Quantize `x` (batch, samples): features (batch, frames, channels) and codes (batch, frames, groups)."""
        return self.quantizer.forward_idx(self.layer_norm(self.feature_extractor(x, None)))


class Fp32BatchNorm(nn.BatchNorm1d):
    """Batch norm that computes in fp32 in a model of any precision.

    fairseq's own version converts its parameters to fp32 in the forward pass, after the optimizer and distributed
    training have taken them in half precision.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Fp32BatchNorm":
        super()._apply(fn, recurse)
        for name in ("running_mean", "running_var"):
            setattr(self, name, getattr(self, name).float())
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Normalize `x` (rows, channels) over the rows."""
        statistics, affine = (self.running_mean, self.running_var), (self.weight.float(), self.bias.float())
        momentum = self.momentum or 0.0
        return F.batch_norm(x.float(), *statistics, *affine, self.training, momentum, self.eps).type_as(x)


class MlpHead(nn.Sequential):
    """Two linear layers (..., in) -> (..., out) with batch norm over all frames and a ReLU between them."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        hidden = nn.Linear(in_channels, MLP_CHANNELS, bias=False)  # the norm has a bias
        out = nn.Linear(MLP_CHANNELS, out_channels)
        nn.init.xavier_normal_(hidden.weight)
        nn.init.xavier_normal_(out.weight)
        nn.init.zeros_(out.bias)
        super().__init__(hidden, Fp32BatchNorm(MLP_CHANNELS), nn.ReLU(), out)

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` (..., in) to (..., out)."""
        return super().forward(x.flatten(0, -2)).unflatten(0, x.shape[:-1])


def load_matching_tensors(model: nn.Module, path: Path) -> None:
    """Copy the tensors of the checkpoint `path` that match `model` in name and shape, and log all others.

    Raises `InputError` if no tensor matches.
    """
    stored, own = read_tensors(path), model.state_dict()
    matching = {name: tensor for name, tensor in stored.items() if name in own and tensor.shape == own[name].shape}
    if not matching:
        raise InputError(f"{path}: model.init_checkpoint has no tensor that matches this model in name and shape")
    model.load_state_dict({**own, **matching})
    unused, random = stored.keys() - matching, own.keys() - matching
    for what, names in (("not copied from", unused), ("initialized at random, not in", random)):
        if names:
            logger.info("%s %s: %s", what, path, ", ".join(sorted(names)))


def _masked(x: Tensor, mask_indices: Tensor | None) -> Tensor:
    """Select masked frames: (batch, frames, channels) -> (batch, masked frames, channels), or all without a mask."""
    return x if mask_indices is None else x[mask_indices].view(x.shape[0], -1, x.shape[-1])
