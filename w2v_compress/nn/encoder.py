"""The context network: positional convolution and transformer layers (Baevski et al. 2020, section 2).

It runs at a compression point (Vyas et al. 2022): frames are squeezed (Wu et al. 2021, section 4), and queries, keys
and values are pooled.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .architecture import Architecture
from .attention import SelfAttention
from .compression import UNCOMPRESSED, CompressionPoint
from .convolution import WeightNormConvolution
from .lengths import valid_mask
from .options import TrainingOptions
from .pooling import mean_pool, pooled_length, repeat_upsample


class EncoderLayer(nn.Module):
    """Transformer layer, `(batch, time, channels)` -> the same shape, with layer norms before or after its two blocks.

    The blocks are attention and feed-forward. Only attention is pooled; the residual connections and the feed-forward
    block run at the frame rate of the input.
    """

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
        out: Tensor = self.dropout(self.fc2(self.activation_dropout(self.activation(self.fc1(x)))))
        return out

    def forward(self, x: Tensor, lengths: Tensor | None, query_pool: int = 1, key_value_pool: int = 1) -> Tensor:
        """Run the layer on `x` with the valid frames `lengths` `(batch,)`, or None if all are valid."""
        pools = query_pool, key_value_pool
        if self.layer_norm_first:
            x = x + self.dropout(self.self_attn(self.self_attn_layer_norm(x), lengths, *pools))
            return x + self._feed_forward(self.final_layer_norm(x))
        x = self.self_attn_layer_norm(x + self.dropout(self.self_attn(x, lengths, *pools)))
        out: Tensor = self.final_layer_norm(x + self._feed_forward(x))
        return out


class Upsampling(nn.Linear):
    """Linear layer that upsamples by `squeeze`: `(batch, groups, channels)` -> `(batch, groups, squeeze * channels)`.

    The outputs of a group are its frames side by side (Wu et al. 2021, section 4). Without an activation after it, the
    layer is initialized to repetition, so adding it to a network trained without it does not change the output.
    """

    def __init__(self, channels: int, squeeze: int, activation: str) -> None:
        self.squeeze, self.linear = squeeze, activation == "none"
        super().__init__(channels, squeeze * channels)

    def reset_parameters(self) -> None:
        """Initialize to repetition without an activation, else as the code of SEW does."""
        nn.init.zeros_(self.bias)
        if self.linear:
            with torch.no_grad():
                self.weight.copy_(torch.eye(self.in_features).repeat(self.squeeze, 1))
        else:
            nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")


class Encoder(nn.Module):
    """Transformer encoder with a relative positional convolution, `(batch, time, channels)` -> the same shape."""

    def __init__(self, architecture: Architecture, options: TrainingOptions) -> None:
        super().__init__()
        channels = architecture.encoder_embed_dim
        self.architecture = architecture
        self.layer_norm_first = architecture.layer_norm_first
        self.checkpoint_activations = options.checkpoint_activations
        self.layerdrop = options.layerdrop
        self.layerdrop_by_seed = options.layerdrop_by_seed
        self.dropout = nn.Dropout(options.dropout)
        positional = WeightNormConvolution(channels, architecture.conv_pos, architecture.conv_pos_groups)
        self.pos_conv = nn.ModuleList([positional])  # named pos_conv.0 in fairseq
        self.layers = nn.ModuleList(EncoderLayer(architecture, options) for _ in range(architecture.encoder_layers))
        self.layer_norm = nn.LayerNorm(channels)
        # Without learned upsampling, frames are repeated, and no parameter depends on the squeeze factor.
        self.upsampling = nn.ModuleDict(
            {
                str(squeeze): Upsampling(channels, squeeze, architecture.upsampling_activation)
                for squeeze in architecture.learned_upsampling
            }
        )
        self.upsampling_activation = F.gelu if architecture.upsampling_activation == "gelu" else nn.Identity()

    def layers_to_skip(self) -> set[int]:
        """Draw the indices of the layers that LayerDrop skips in this forward pass (Fan et al. 2019).

        Empty outside training. `TrainingOptions.layerdrop_by_seed` sets what the draw depends on.
        """
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
        return_hidden: bool = False,
    ) -> tuple[Tensor, list[Tensor]]:
        """Encode `x` `(batch, time, channels)` at a compression point.

        `lengths` `(batch,)` is the number of valid frames, or None if all are valid. Returns the output `(batch, time,
        channels)` and, with `return_hidden`, the output of each layer in the same shape, else an empty list. Raises
        `InputError` if the network does not support `point`.
        """
        time, squeeze = x.shape[1], point.squeeze
        pools = self.pools_per_layer(point)
        if lengths is not None:  # keep padding out of the positional convolution
            x = x.masked_fill(~valid_mask(lengths, time).unsqueeze(-1), 0)
        x = mean_pool(x, squeeze, lengths) + F.gelu(self._positions(x, squeeze))
        if lengths is not None:
            lengths = pooled_length(lengths, squeeze)
        if not self.layer_norm_first:
            x = self.layer_norm(x)
        x = self.dropout(x)
        hidden = []
        skipped = self.layers_to_skip()
        for index, layer in enumerate(self.layers):
            if index not in skipped:
                x = self._run_layer(layer, x, lengths, *pools[index])
            if return_hidden:  # a skipped layer counts too: its output is its input
                hidden.append(repeat_upsample(x, squeeze, time))
        if self.layer_norm_first:
            x = self.layer_norm(x)
        return self._upsample(x, squeeze, time), hidden

    def _positions(self, x: Tensor, squeeze: int) -> Tensor:
        """Return the positional convolution of each group of `squeeze` frames, `(batch, groups, channels)`."""
        positions: Tensor
        if shift := self.architecture.position_shift(squeeze):  # one group more, which is dropped
            positions = self.pos_conv[0](F.pad(x, (0, 0, squeeze - shift, shift)), squeeze)[:, 1:]
        else:
            positions = self.pos_conv[0](x, squeeze)
        return positions

    def pools_per_layer(self, point: CompressionPoint) -> list[tuple[int, int]]:
        """Return (query pooling, key-value pooling) of each layer; errors as `Architecture.pools_per_layer`."""
        return self.architecture.pools_per_layer(point)

    def _run_layer(
        self, layer: nn.Module, x: Tensor, lengths: Tensor | None, query_pool: int, key_value_pool: int
    ) -> Tensor:
        """Run one layer; in training, with activation checkpointing if it is on."""
        out: Tensor
        if self.checkpoint_activations and self.training and torch.is_grad_enabled():
            out = checkpoint(layer, x, lengths, query_pool, key_value_pool, use_reentrant=False)
        else:
            out = layer(x, lengths, query_pool, key_value_pool)
        return out

    def _upsample(self, x: Tensor, squeeze: int, time: int) -> Tensor:
        """Upsample `(batch, ceil(time / squeeze), channels)` to `(batch, time, channels)`, by a layer or repetition."""
        if squeeze == 1 or not self.upsampling:
            return repeat_upsample(x, squeeze, time)
        groups = self.upsampling_activation(self.upsampling[str(squeeze)](x))
        frames: Tensor = groups.unflatten(2, (squeeze, -1)).flatten(1, 2)
        return frames[:, :time]
