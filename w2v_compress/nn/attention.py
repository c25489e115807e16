"""Multi-head self-attention on `scaled_dot_product_attention`, with called projections so that they can be int8."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from .lengths import valid_mask
from .pooling import mean_pool, pooled_length, repeat_upsample

Projections = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""Rows for queries and rows for keys and values, (batch, time, channels) -> query, key, value"""
Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""Query, key, value (batch, heads, time, channels / heads) and valid keys (batch,) -> what the query was"""


class SelfAttention(nn.Module):
    """(batch, time, channels) -> the same (Vaswani et al. 2017, section 3.2.2), under fairseq's parameter names.

    Queries, and keys with values, may be means over several frames (Vyas et al. 2022). A mean commutes with the affine
    projections, and repetition with the output projection, so both happen on the short side of them.
    """

    def __init__(self, channels: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.k_proj = nn.Linear(channels, channels)
        self.v_proj = nn.Linear(channels, channels)
        self.q_proj = nn.Linear(channels, channels)
        self.out_proj = nn.Linear(channels, channels)
        self.joint: Projections | None = None
        """In place of the three projections, where there is no training to do."""
        self.attend: Attend | None = None
        """In place of `scaled_dot_product_attention`, likewise."""

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (batch, heads, time, channels / heads)

    def _project(self, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.q_proj(queries), self.k_proj(keys), self.v_proj(keys)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, lengths: Tensor | None) -> Tensor:
        mask = None if lengths is None else valid_mask(lengths, key.shape[2])[:, None, None, :]
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)

    def forward(self, x: Tensor, lengths: Tensor | None, query_pool: int = 1, key_value_pool: int = 1) -> Tensor:
        """`lengths`: (batch,) valid frames, or None when all are; keys of padding are not seen."""
        queries = mean_pool(x, query_pool, lengths)
        keys = queries if key_value_pool == query_pool else mean_pool(x, key_value_pool, lengths)
        query, key, value = map(self._split, (self.joint or self._project)(queries, keys))
        keys_seen = None if lengths is None else pooled_length(lengths, key_value_pool)
        mixed = (self.attend or self._attend)(query, key, value, keys_seen)
        return repeat_upsample(self.out_proj(mixed.transpose(1, 2).flatten(2)), query_pool, x.shape[1])
