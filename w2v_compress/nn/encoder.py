"""Features to context: positional convolution and transformer layers (Baevski et al. 2020, section 2)."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .architecture import Architecture
from .attention import SelfAttention
from .feature_extractor import valid_mask


@dataclass(frozen=True, kw_only=True)
class Regularization:
    """What is at work only in training; the names and places are fairseq's."""

    dropout: float = 0.0
    """After attention, after the feed-forward block, and on the input of the layers."""
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    dropout_input: float = 0.0
    final_dropout: float = 0.0
    layerdrop: float = 0.0
    """Probability of skipping a layer (Fan et al. 2019)."""
    feature_grad_mult: float = 1.0
    """Factor on the gradient that reaches the feature extractor; 0 freezes it."""


class WeightNormConvolution(nn.Module):
    """Grouped `nn.Conv1d` with "same" padding under weight norm over the kernel (fairseq: `weight_norm(dim=2)`).

    (batch, time, channels) -> the same. An even kernel looks one frame further back than ahead.
    """

    def __init__(self, channels: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        weight = torch.empty(channels, channels // groups, kernel).normal_(std=math.sqrt(4 / (kernel * channels)))
        self.weight_g = nn.Parameter(weight.norm(dim=(0, 1), keepdim=True))  # (1, 1, kernel)
        self.weight_v = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(channels))

    def effective_weight(self) -> Tensor:
        """The weight to compute with, (channels, channels / groups, kernel)."""
        return torch._weight_norm(self.weight_v, self.weight_g, 2)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.effective_weight()
        kernel = weight.shape[2]
        x = F.conv1d(x.transpose(1, 2), weight, self.bias, padding=kernel // 2, groups=self.groups)
        if kernel % 2 == 0:
            x = x[:, :, :-1]
        return x.transpose(1, 2)


class EncoderLayer(nn.Module):
    """Attention and feed-forward block, layer norm before or after each. (batch, time, channels) -> the same"""

    def __init__(self, architecture: Architecture, regularization: Regularization) -> None:
        super().__init__()
        channels = architecture.encoder_embed_dim
        self.layer_norm_first = architecture.layer_norm_first
        self.activation = F.gelu if architecture.activation_fn == "gelu" else F.relu
        self.dropout = nn.Dropout(regularization.dropout)
        self.activation_dropout = nn.Dropout(regularization.activation_dropout)
        self.self_attn = SelfAttention(channels, architecture.encoder_attention_heads, regularization.attention_dropout)
        self.self_attn_layer_norm = nn.LayerNorm(channels)
        self.fc1 = nn.Linear(channels, architecture.encoder_ffn_embed_dim)
        self.fc2 = nn.Linear(architecture.encoder_ffn_embed_dim, channels)
        self.final_layer_norm = nn.LayerNorm(channels)

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.fc2(self.activation_dropout(self.activation(self.fc1(x)))))

    def forward(self, x: Tensor, attend: Tensor | None) -> Tensor:
        if self.layer_norm_first:
            x = x + self.dropout(self.self_attn(self.self_attn_layer_norm(x), attend))
            return x + self._feed_forward(self.final_layer_norm(x))
        x = self.self_attn_layer_norm(x + self.dropout(self.self_attn(x, attend)))
        return self.final_layer_norm(x + self._feed_forward(x))


class Encoder(nn.Module):
    """(batch, time, channels) -> the same, and what there is after each layer, if asked for."""

    def __init__(self, architecture: Architecture, regularization: Regularization) -> None:
        super().__init__()
        channels = architecture.encoder_embed_dim
        self.layer_norm_first = architecture.layer_norm_first
        self.layerdrop = regularization.layerdrop
        self.dropout = nn.Dropout(regularization.dropout)
        positional = WeightNormConvolution(channels, architecture.conv_pos, architecture.conv_pos_groups)
        self.pos_conv = nn.ModuleList([positional])  # fairseq's name is pos_conv.0
        self.layers = nn.ModuleList(
            EncoderLayer(architecture, regularization) for _ in range(architecture.encoder_layers)
        )
        self.layer_norm = nn.LayerNorm(channels)

    def layers_to_skip(self) -> set[int]:
        """Those that layer drop leaves out of this pass, in training only.

        Which ones is a function of torch's seed, which fairseq sets to seed + update before each update, and not of
        the state of the generator: processes whose batches differ must skip the same layers.
        """
        if not self.training or not self.layerdrop:
            return set()
        draws = torch.rand(len(self.layers), generator=torch.Generator().manual_seed(torch.initial_seed()))
        return {layer for layer, draw in enumerate(draws.tolist()) if draw < self.layerdrop}

    def forward(self, x: Tensor, lengths: Tensor | None, keep_hidden: bool = False) -> tuple[Tensor, list[Tensor]]:
        """`lengths`: (batch,) valid frames, or None when all are."""
        attend = None
        if lengths is not None:
            valid = valid_mask(lengths, x.shape[1])
            x = x * valid.unsqueeze(-1).to(x)  # the positional convolution must not see padding
            attend = valid[:, None, None, :]
        x = x + F.gelu(self.pos_conv[0](x))
        if not self.layer_norm_first:
            x = self.layer_norm(x)
        x = self.dropout(x)
        hidden = []
        skipped = self.layers_to_skip()
        for index, layer in enumerate(self.layers):
            if index not in skipped:
                x = layer(x, attend)
            if keep_hidden:  # of a skipped layer too, what it lets through, so that the count stays
                hidden.append(x)
        if self.layer_norm_first:
            x = self.layer_norm(x)
        return x, hidden
