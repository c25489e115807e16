"""Features to context: positional convolution and transformer layers (Baevski et al. 2020, section 2), at a point of
compression (Vyas et al. 2022): squeezed frames (Wu et al. 2021, section 4), pooled queries, keys and values.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import InputError
from .architecture import Architecture
from .attention import SelfAttention
from .compression import UNCOMPRESSED, CompressionPoint
from .convolution import WeightNormConvolution
from .lengths import valid_mask
from .options import TrainingOptions
from .pooling import mean_pool, pooled_length, repeat_upsample


class EncoderLayer(nn.Module):
    """Attention and feed-forward block, layer norm before or after each. (batch, time, channels) -> the same"""

    def __init__(self, architecture: Architecture, options: TrainingOptions) -> None:
        super().__init__()
        channels = architecture.encoder_embed_dim
        self.layer_norm_first = architecture.layer_norm_first
        self.activation: Callable[[Tensor], Tensor] = F.gelu if architecture.activation_fn == "gelu" else F.relu
        self.dropout = nn.Dropout(options.dropout)
        self.activation_dropout = nn.Dropout(options.activation_dropout)
        self.self_attn = SelfAttention(channels, architecture.encoder_attention_heads, options.attention_dropout)
        self.self_attn_layer_norm = nn.LayerNorm(channels)
        self.fc1 = nn.Linear(channels, architecture.encoder_ffn_embed_dim)
        self.fc2 = nn.Linear(architecture.encoder_ffn_embed_dim, channels)
        self.final_layer_norm = nn.LayerNorm(channels)

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.fc2(self.activation_dropout(self.activation(self.fc1(x)))))

    def forward(self, x: Tensor, lengths: Tensor | None, query_pool: int = 1, key_value_pool: int = 1) -> Tensor:
        """`lengths`: (batch,) valid frames, or None when all are. Residual and feed-forward stay at the full rate."""
        pools = query_pool, key_value_pool
        if self.layer_norm_first:
            x = x + self.dropout(self.self_attn(self.self_attn_layer_norm(x), lengths, *pools))
            return x + self._feed_forward(self.final_layer_norm(x))
        x = self.self_attn_layer_norm(x + self.dropout(self.self_attn(x, lengths, *pools)))
        return self.final_layer_norm(x + self._feed_forward(x))


class Upsampling(nn.Linear):
    """(batch, groups, channels) -> (batch, groups, squeeze * channels): a frame for each of those under the group.

    Without an activation after it, it starts as repetition: a network that was trained without it loses nothing.
    """

    def __init__(self, channels: int, squeeze: int, activation: str) -> None:
        self.squeeze, self.linear = squeeze, activation == "none"
        super().__init__(channels, squeeze * channels)

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.bias)
        if self.linear:
            with torch.no_grad():
                self.weight.copy_(torch.eye(self.in_features).repeat(self.squeeze, 1))
        else:  # as in the code of SEW
            nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")


class Encoder(nn.Module):
    """(batch, time, channels) -> the same, and what there is after each layer, if asked for."""

    def __init__(self, architecture: Architecture, options: TrainingOptions) -> None:
        super().__init__()
        channels = architecture.encoder_embed_dim
        self.layer_norm_first = architecture.layer_norm_first
        self.checkpoint_activations = options.checkpoint_activations
        self.layerdrop = options.layerdrop
        self.layerdrop_by_seed = options.layerdrop_by_seed
        self.dropout = nn.Dropout(options.dropout)
        positional = WeightNormConvolution(channels, architecture.conv_pos, architecture.conv_pos_groups)
        self.pos_conv = nn.ModuleList([positional])  # fairseq's name is pos_conv.0
        self.layers = nn.ModuleList(EncoderLayer(architecture, options) for _ in range(architecture.encoder_layers))
        self.layer_norm = nn.LayerNorm(channels)
        # Without learned upsampling, frames are repeated, and nothing in the network depends on the squeeze factor.
        self.upsampling = nn.ModuleDict(
            {
                str(squeeze): Upsampling(channels, squeeze, architecture.upsampling_activation)
                for squeeze in architecture.learned_upsampling
            }
        )
        self.upsampling_activation = F.gelu if architecture.upsampling_activation == "gelu" else nn.Identity()

    def layers_to_skip(self) -> set[int]:
        """Those that layer drop leaves out of this pass, in training only; see `TrainingOptions.layerdrop_by_seed`."""
        if not self.training or not self.layerdrop:
            return set()
        generator = torch.Generator().manual_seed(torch.initial_seed()) if self.layerdrop_by_seed else None
        draws = torch.rand(len(self.layers), generator=generator)
        return {layer for layer, draw in enumerate(draws.tolist()) if draw < self.layerdrop}

    def forward(
        self,
        x: Tensor,
        lengths: Tensor | None,
        point: CompressionPoint = UNCOMPRESSED,
        keep_hidden: bool = False,
    ) -> tuple[Tensor, list[Tensor]]:
        """`lengths`: (batch,) valid frames, or None when all are.

        Raises `InputError` when the network has no such point.
        """
        time, squeeze = x.shape[1], point.squeeze
        pools = self.pools_at(point)
        if lengths is not None:  # the positional convolution must not see padding
            x = x.masked_fill(~valid_mask(lengths, time).unsqueeze(-1), 0)
        x = mean_pool(x, squeeze, lengths) + F.gelu(self.pos_conv[0](x, squeeze))
        if lengths is not None:
            lengths = pooled_length(lengths, squeeze)
        if not self.layer_norm_first:
            x = self.layer_norm(x)
        x = self.dropout(x)
        hidden = []
        skipped = self.layers_to_skip()
        for index, layer in enumerate(self.layers):
            if index not in skipped:
                x = self._run(layer, x, lengths, *pools[index])
            if keep_hidden:  # of a skipped layer too, what it lets through, so that the count stays
                hidden.append(repeat_upsample(x, squeeze, time))
        if self.layer_norm_first:
            x = self.layer_norm(x)
        return self._upsample(x, squeeze, time), hidden

    def pools_at(self, point: CompressionPoint) -> list[tuple[int, int]]:
        """(query pooling, key-value pooling) of each layer; `InputError` when the network has no such point."""
        if self.upsampling and str(point.squeeze) not in ("1", *self.upsampling):
            raise InputError(
                f"compression point {point}: this network learned to upsample for a squeeze of "
                f"{', '.join(self.upsampling)}; it must be one of these or 1"
            )
        return point.of_layers(len(self.layers))

    def _run(self, layer: nn.Module, *arguments: Any) -> Tensor:
        if self.checkpoint_activations and self.training and torch.is_grad_enabled():
            return checkpoint(layer, *arguments, use_reentrant=False)
        return layer(*arguments)

    def _upsample(self, x: Tensor, squeeze: int, time: int) -> Tensor:
        """(batch, ceil(time / squeeze), channels) -> (batch, time, channels): a learned map (Wu et al. 2021), or each
        frame `squeeze` times.
        """
        if squeeze == 1 or not self.upsampling:
            return repeat_upsample(x, squeeze, time)
        parts = self.upsampling_activation(self.upsampling[str(squeeze)](x))
        return parts.unflatten(2, (squeeze, -1)).flatten(1, 2)[:, :time]
