"""Multi-head self-attention on `scaled_dot_product_attention`, with called projections so that they can be int8."""

import torch.nn.functional as F
from torch import Tensor, nn


class SelfAttention(nn.Module):
    """(batch, time, channels) -> the same (Vaswani et al. 2017, section 3.2.2), under fairseq's parameter names."""

    def __init__(self, channels: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.k_proj = nn.Linear(channels, channels)
        self.v_proj = nn.Linear(channels, channels)
        self.q_proj = nn.Linear(channels, channels)
        self.out_proj = nn.Linear(channels, channels)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (batch, heads, time, channels / heads)

    def forward(self, x: Tensor, attend: Tensor | None) -> Tensor:
        """`attend`: (batch, 1, 1, time) bool, true at keys that may be seen; None for all."""
        query, key, value = self._split(self.q_proj(x)), self._split(self.k_proj(x)), self._split(self.v_proj(x))
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=attend, dropout_p=dropout)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))
