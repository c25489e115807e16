"""What the pre-training models share: fairseq's `wav2vec2` over the feature extractor and the encoder of `nn/`.

Masks, negatives, quantizer, logits and losses are those of wav2vec 2.0 (Baevski et al. 2020, section 3), at the frame
rate of the extractor: masks are drawn before frames are squeezed, and the loss is that of upsampled frames. Parameters
have the names of stock fairseq, and stock `wav2vec_ctc` fine-tunes these models at their own point.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config, Wav2Vec2Model
from fairseq.modules import GradMultiply
from omegaconf import OmegaConf, open_dict
from torch import Tensor, nn

from ..errors import InputError
from ..interop.fairseq_checkpoint import read_tensors
from ..interop.fairseq_settings import default_point
from ..nn import Architecture, CompressionPoint, TrainingOptions
from ..nn.acoustic_model import initialize_linear
from ..nn.encoder import Encoder
from ..nn.feature_extractor import FeatureExtractor
from ..nn.lengths import valid_lengths, valid_mask

logger = logging.getLogger(__name__)
MLP_CHANNELS = 4096


@dataclass
class PretrainingConfig(Wav2Vec2Config):
    init_checkpoint: str = field(
        default="",
        metadata={"help": "checkpoint of stock fairseq or ours to start from, as far as names and shapes are the same"},
    )
    mlp_heads: bool = field(
        default=False, metadata={"help": "predict by two layers with batch norm, as in SEW, in place of a linear map"}
    )
    w2v_args: Any = field(
        default=None, metadata={"help": "filled when init_checkpoint was read, so that it is not read again"}
    )


class PretrainingModel(Wav2Vec2Model):
    """Stock `wav2vec2` at a compression point; at (1, 1, 1) the same function, padding aside.

    In padded batches with group norm (`extractor_mode: default`) each utterance gets what it gets alone, unlike stock.
    """

    encoder_class = Encoder
    encoder: Encoder

    def __init__(self, cfg: PretrainingConfig) -> None:
        """Raises `InputError` for settings of stock `wav2vec2` that this network does not have."""
        settings: Any = OmegaConf.to_container(OmegaConf.create(cfg), resolve=False, enum_to_str=True)
        with _naming_model():
            architecture = Architecture.from_fairseq(settings, num_units=1)  # without a head
            point = default_point(settings)
        # Of the stock encoder nothing stays, so it is made without layers.
        super().__init__(OmegaConf.merge(cfg, {"encoder_layers": 0}))
        self.cfg = cfg
        self.point = point
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
        with _naming_model():
            self.encoder.pools_at(self.point)
        if cfg.mlp_heads:
            for name in ("project_q", "final_proj"):
                linear = getattr(self, name)
                setattr(self, name, MlpHead(linear.in_features, linear.out_features))

    @classmethod
    def build_model(cls, cfg: PretrainingConfig, task: Any = None) -> "PretrainingModel":
        """The model, with what it takes from `init_checkpoint`."""
        model = cls(cfg)
        if cfg.init_checkpoint and cfg.w2v_args is None:
            start_from(model, Path(cfg.init_checkpoint))
            with open_dict(cfg):  # the one field that fairseq's task copies into what it saves
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
        """(batch, samples) and its padding -> as stock: `x`, the logits (1 + negatives, batch, masked frames), and what
        `get_extra_losses` needs; with `features_only`, `x` (batch, frames, channels), after `layer` if it is given.

        `point` None is the model's own.
        """
        features, padded = self._extract(source, padding_mask)
        penalty = features.float().pow(2).mean()
        features = self.layer_norm(features)
        unmasked = features.clone()  # masks are written in place
        x = self.dropout_input(features if self.post_extract_proj is None else self.post_extract_proj(features))
        unmasked = self.dropout_features(unmasked)
        if mask:
            x, mask_indices = self.apply_mask(x, padded, mask_indices, mask_channel_indices)
        else:
            mask_indices = None
        lengths = None if padded is None else (~padded).sum(1)
        x, hidden = self.encoder(x, lengths, self.point if point is None else point, keep_hidden=layer is not None)
        if features_only:
            x = x if layer is None else hidden[layer]
            results = [(state.transpose(0, 1), None, None) for state in hidden]
            return {"x": x, "padding_mask": padded, "features": unmasked, "layer_results": results}
        targets, negatives, statistics = self._targets(unmasked, mask_indices, padding_count)
        logits = self.compute_preds(self.final_proj(_masked(x, mask_indices)), targets, negatives)
        return {"x": logits, "padding_mask": padded, "features_pen": penalty, **statistics}

    def _extract(self, source: Tensor, padding_mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Features (batch, frames, channels), and which of them are padding (batch, frames) or None."""
        lengths = valid_lengths(padding_mask)
        trained = self.feature_grad_mult > 0
        with contextlib.nullcontext() if trained else torch.no_grad():
            features = self.feature_extractor(source, lengths)
        if trained and self.feature_grad_mult != 1.0:
            features = GradMultiply.apply(features, self.feature_grad_mult)
        if lengths is None:
            return features, None
        frames = self._get_feat_extract_output_lengths(lengths)
        return features, ~valid_mask(frames, features.shape[1])

    def _targets(
        self, unmasked: Tensor, mask_indices: Tensor | None, padding_count: int | None
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Targets (batch, masked frames, channels), negatives (negatives, batch, masked frames, channels), and how the
        codebook is used.
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
        """`forward` with `features_only`: what stock fine-tuning calls. `layer_results` has the states after each
        layer, as stock, only when `layer` is asked for.
        """
        return self.forward(source, padding_mask, mask=mask, features_only=True, layer=layer, point=point)

    def quantize(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, samples) -> quantized features (batch, frames, channels), codes (batch, frames, groups)"""
        return self.quantizer.forward_idx(self.layer_norm(self.feature_extractor(x, None)))


class Fp32BatchNorm(nn.BatchNorm1d):
    """Batch norm in fp32 in a model of any precision. fairseq's turns its parameters into fp32 as it runs, when the
    optimizer and distributed training hold them in half precision.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Fp32BatchNorm":
        super()._apply(fn, recurse)
        for name in ("running_mean", "running_var"):
            setattr(self, name, getattr(self, name).float())
        return self

    def forward(self, x: Tensor) -> Tensor:
        """(rows, channels) -> the same"""
        statistics, affine = (self.running_mean, self.running_var), (self.weight.float(), self.bias.float())
        momentum = self.momentum or 0.0
        return F.batch_norm(x.float(), *statistics, *affine, self.training, momentum, self.eps).type_as(x)


class MlpHead(nn.Sequential):
    """(..., in) -> (..., out): two layers with a batch norm, over all frames, and a ReLU in between."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        hidden = nn.Linear(in_channels, MLP_CHANNELS, bias=False)  # the norm has one
        out = nn.Linear(MLP_CHANNELS, out_channels)
        nn.init.xavier_normal_(hidden.weight)
        nn.init.xavier_normal_(out.weight)
        nn.init.zeros_(out.bias)
        super().__init__(hidden, Fp32BatchNorm(MLP_CHANNELS), nn.ReLU(), out)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, -2)).unflatten(0, x.shape[:-1])


def start_from(model: nn.Module, path: Path) -> None:
    """Copy the tensors in the checkpoint `path` that `model` has by name and shape, and log which others there are.

    Raises `InputError` when none fits.
    """
    stored, own = read_tensors(path), model.state_dict()
    taken = {name: tensor for name, tensor in stored.items() if name in own and tensor.shape == own[name].shape}
    if not taken:
        raise InputError(f"{path}: model.init_checkpoint has no tensor that fits this model by name and shape")
    model.load_state_dict({**own, **taken})
    for what, names in (("not taken from", stored.keys() - taken), ("left at random, not in", own.keys() - taken)):
        if names:
            logger.info("%s %s: %s", what, path, ", ".join(sorted(names)))


@contextlib.contextmanager
def _naming_model() -> Iterator[None]:
    """Errors say that they are about the configuration's `model`."""
    try:
        yield
    except InputError as error:
        raise InputError(f"model: {error}") from None


def _masked(x: Tensor, mask_indices: Tensor | None) -> Tensor:
    """(batch, frames, channels) -> (batch, masked frames, channels): all when there is no mask."""
    return x if mask_indices is None else x[mask_indices].view(x.shape[0], -1, x.shape[-1])
