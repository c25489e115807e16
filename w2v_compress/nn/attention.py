"""Multi-head self-attention with pooled queries, keys and values.

The projections are called as modules, so that they can be replaced by int8 modules.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from .lengths import valid_mask
from .pooling import mean_pool, pooled_length, repeat_upsample

ProjectionFunction = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""Maps the inputs of queries and of keys and values, each `(batch, time, channels)`, to query, key and value."""
AttentionFunction = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""Maps query, key and value `(batch, heads, time, channels / heads)` and the number of valid keys `(batch,)`, or None
if all are valid, to the mixed values in the shape of the query."""


class SelfAttention(nn.Module):
    """Multi-head self-attention, `(batch, time, channels)` -> the same shape, under fairseq's parameter names.

    As in Vaswani et al. 2017, section 3.2.2; queries, and keys with values, may be averaged over several frames (Vyas
    et al. 2022). Averaging commutes with the affine projections of the input, and repetition with the output
    projection, so all projections run at the lower frame rate.
    """

    def __init__(self, channels: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.k_proj = nn.Linear(channels, channels)
        self.v_proj = nn.Linear(channels, channels)
        self.q_proj = nn.Linear(channels, channels)
        self.out_proj = nn.Linear(channels, channels)
        self.fused_projections: ProjectionFunction | None = None
        """Replaces `q_proj`, `k_proj` and `v_proj` in inference."""
        self.attention_function: AttentionFunction | None = None
        """Replaces `scaled_dot_product_attention` in inference."""

    def _split_heads(self, x: Tensor) -> Tensor:
        """Reshape `(batch, time, channels)` to `(batch, heads, time, channels / heads)`."""
        split: Tensor = x.unflatten(-1, (self.heads, -1))
        return split.transpose(1, 2)

    def _project(self, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.q_proj(queries), self.k_proj(keys), self.v_proj(keys)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, valid_keys: Tensor | None) -> Tensor:
        mask = None if valid_keys is None else valid_mask(valid_keys, key.shape[2])[:, None, None, :]
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)

    def forward(self, x: Tensor, lengths: Tensor | None, query_pool: int = 1, key_value_pool: int = 1) -> Tensor:
        """Attend over the valid frames `lengths` `(batch,)`, or over all if None; padding is masked out of the keys.

        `query_pool` and `key_value_pool` are the numbers of frames averaged to one query, and to one key and value.
        """
        queries = mean_pool(x, query_pool, lengths)
        keys = queries if key_value_pool == query_pool else mean_pool(x, key_value_pool, lengths)
        query, key, value = map(self._split_heads, (self.fused_projections or self._project)(queries, keys))
        valid_keys = None if lengths is None else pooled_length(lengths, key_value_pool)
        mixed = (self.attention_function or self._attend)(query, key, value, valid_keys)
        return repeat_upsample(self.out_proj(mixed.transpose(1, 2).flatten(2)), query_pool, x.shape[1])
