"""Multi-head self-attention with pooled queries, keys and values.

The projections are called as modules, so that they can be replaced by int8 modules.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .lengths import valid_mask
from .pooling import mean_pool, pooled_length, repeat_upsample


class AttentionProducts(nn.Module):
    """Scaled dot-product attention, a module of its own so that calibration can observe its inputs.

    Maps query `(batch, heads, queries, channels / heads)` and key and value `(batch, heads, keys, channels / heads)`,
    with the number of valid keys `(batch,)` or None if all are valid, to the mixed values in the shape of the query.
    """

    scale: nn.Parameter | None
    """In a calibrated int8 model the scales of `quantization.parts.ATTENTION_OPERANDS`, `(2,)`, for runtimes that
    multiply queries and keys in int8. This module computes in floating point."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.register_parameter("scale", None)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, valid_keys: Tensor | None) -> Tensor:
        """Return the mixed values."""
        mask = None if valid_keys is None else valid_mask(valid_keys, key.shape[2])[:, None, None, :]
        dropout = self.dropout if self.training else 0.0
        if query.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            # torch's kernel for CPUs computes bf16 without AMX; plain products take two thirds of its time.
            scores = (query * query.shape[3] ** -0.5) @ key.transpose(2, 3)
            if mask is not None:
                scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
            return F.dropout(scores.softmax(3, torch.float32), dropout) @ value
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)


class SelfAttention(nn.Module):
    """Multi-head self-attention, `(batch, time, channels)` -> the same shape, under fairseq's parameter names.

    As in Vaswani et al. 2017, section 3.2.2; queries, and keys with values, may be averaged over several frames (Vyas
    et al. 2022). Averaging commutes with the affine projections of the input, and repetition with the output
    projection, so all projections run at the lower frame rate.
    """

    def __init__(self, channels: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.k_proj = nn.Linear(channels, channels)
        self.v_proj = nn.Linear(channels, channels)
        self.q_proj = nn.Linear(channels, channels)
        self.out_proj = nn.Linear(channels, channels)
        self.products = AttentionProducts(dropout)

    def _split_heads(self, x: Tensor) -> Tensor:
        """Reshape `(batch, time, channels)` to `(batch, heads, time, channels / heads)`."""
        split: Tensor = x.unflatten(-1, (self.heads, -1))
        return split.transpose(1, 2)

    def forward(self, x: Tensor, lengths: Tensor | None, query_pool: int = 1, key_value_pool: int = 1) -> Tensor:
        """Attend over the valid frames `lengths` `(batch,)`, or over all if None; padding is masked out of the keys.

        `query_pool` and `key_value_pool` are the numbers of frames averaged to one query, and to one key and value.
        """
        queries = mean_pool(x, query_pool, lengths)
        keys = queries if key_value_pool == query_pool else mean_pool(x, key_value_pool, lengths)
        query, key, value = map(self._split_heads, (self.q_proj(queries), self.k_proj(keys), self.v_proj(keys)))
        valid_keys = None if lengths is None else pooled_length(lengths, key_value_pool)
        mixed = self.products(query, key, value, valid_keys)
        return repeat_upsample(self.out_proj(mixed.transpose(1, 2).flatten(2)), query_pool, x.shape[1])
