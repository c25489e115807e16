"""Optimize a network for inference: pack weights for oneDNN, and fuse projections and activations.

On x86, oneDNN's fp32 and bf16 kernels read weights in a packed layout. Plain torch packs bf16 weights again at each
call, and passes fp32 to MKL, which is slower on CPUs of vendors other than Intel.
"""

import functools
import math
import platform
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..nn.acoustic_model import AcousticModel
from ..nn.attention import SelfAttention
from ..nn.convolution import (
    FoldedPositionalConvolution,
    StridedConvolution,
    WeightNormConvolution,
    group_windows,
    overlapping_windows,
    split_groups,
)
from ..nn.device import half_precision, onednn_has_bf16
from ..nn.encoder import EncoderLayer
from ..nn.feature_extractor import ExtractorLayer
from ..nn.modules import replace_modules
from ..quantization.int8 import Int8Linear

MAX_SCORES = 512 * 1024
"""Number of bf16 attention scores computed at a time; more do not fit in a core's L2 cache."""


def optimize_for_inference(model: AcousticModel) -> None:
    """Replace modules of `model` in place by faster ones for inference, which cannot be trained.

    Move the model to its device and cast it to its precision first: the replacements depend on both.
    """
    for module in list(model.modules()):
        if isinstance(module, SelfAttention):
            fuse_qkv(module)
            if uses_bfloat16_attention(module.out_proj.weight):
                module.attention_function = bfloat16_attention
    replace_modules(model, _optimized_module)
    for module in model.modules():
        if isinstance(module, EncoderLayer | ExtractorLayer):
            fuse_activation(module)


def _optimized_module(_name: str, module: nn.Module) -> nn.Module | None:
    if isinstance(module, WeightNormConvolution):
        weight = module.effective_weight().detach()
        positional = PackedPositionalConvolution if can_pack(weight) else FoldedPositionalConvolution
        return positional(weight, module.bias, module.groups)
    if isinstance(module, nn.Linear) and can_pack(module.weight):
        return PackedLinear(module.weight, module.bias)
    # The first convolution stays: the group norm rescales its weights for each utterance.
    if isinstance(module, StridedConvolution) and module.weight.shape[1] > 1 and can_pack(module.weight):
        return PackedConvolution(module)
    return None


def can_pack(weight: Tensor) -> bool:
    """Return whether oneDNN can multiply with a packed copy of `weight` on this machine."""
    return weight.is_cpu and packing_works(weight.dtype)


@functools.cache
def packing_works(dtype: torch.dtype) -> bool:
    """Return whether the packed linear layer gives correct results in `dtype` on this machine.

    Its operators are those that torch.compile emits, which torch may change without notice, so small products are
    compared with `F.linear`.
    """
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    if not is_x86 or not torch.backends.mkldnn.is_available() or dtype not in (torch.float32, torch.bfloat16):
        return False
    if dtype == torch.bfloat16 and not onednn_has_bf16():
        return False
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*shape, generator=generator).to(dtype) for shape in ((8, 32), (16, 32), (16,)))
    expected = F.linear(x.float(), weight.float(), bias.float())
    try:
        return all(
            torch.allclose(PackedLinear(weight, bias, name)(x).float(), right, atol=0.1)
            for name, right in (("none", expected), ("gelu", F.gelu(expected)), ("relu", F.relu(expected)))
        )
    except (AttributeError, RuntimeError, TypeError):
        return False


class PackedLinear(nn.Module):
    """`nn.Linear` with a packed weight, followed by a fused activation ("gelu", "relu" or "none").

    (..., in) -> (..., out)
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, activation: str = "none") -> None:
        super().__init__()
        # Not a parameter: only oneDNN can read the packed layout.
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous())
        self.bias = bias
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation of the affine map of `x`."""
        # The last argument selects the exact GELU (by the error function) rather than the tanh approximation.
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, self.activation, [], "none")
        return out


class PackedConvolution(nn.Module):
    """`StridedConvolution` as one packed product over copied windows.

    (batch, time, in) -> (batch, (time - kernel) // stride + 1, out). The feature extractor computes few frames at a
    time, so the copies stay in the cache.
    """

    def __init__(self, convolution: StridedConvolution) -> None:
        super().__init__()
        self.kernel, self.stride = convolution.kernel, convolution.stride
        self.linear = PackedLinear(convolution.effective_weight().transpose(1, 2).flatten(1), convolution.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve `x` without padding."""
        windows = overlapping_windows(x, self.kernel, self.stride)
        out: Tensor = self.linear(windows.clone(memory_format=torch.contiguous_format))
        return out


class PackedPositionalConvolution(nn.Module):
    """`FoldedPositionalConvolution` as one packed product over copied windows for each group.

    (batch, time, channels) -> (batch, ceil(time / stride), channels)
    """

    def __init__(self, weight: Tensor, bias: Tensor, groups: int) -> None:
        """Pack `weight` (channels, channels / groups, kernel)."""
        super().__init__()
        self.groups, self.kernel = groups, weight.shape[2]
        self.linears = nn.ModuleList(
            PackedLinear(group_weight.transpose(1, 2).flatten(1), group_bias)
            for group_weight, group_bias in zip(weight.chunk(groups), bias.chunk(groups), strict=True)
        )

    def forward(self, x: Tensor, stride: int = 1) -> Tensor:
        """Convolve `x` with "same" padding."""
        frames = -(-x.shape[1] // stride)
        out = x.new_empty(len(x), frames, self.groups, x.shape[2] // self.groups)
        for index, utterance in enumerate(split_groups(x, self.groups, self.kernel)):
            for group, linear in enumerate(self.linears):
                out[index, :, group] = linear(group_windows(utterance[group], self.kernel, stride))
        return out.flatten(2)


class FusedProjections(nn.Module):
    """Query, key and value projections as one product, or as two where queries and keys are pooled differently.

    Inputs and outputs are (batch, time, channels). With one product, int8 quantizes its input once. A packed weight
    cannot be split, so packed queries always take a product of their own.
    """

    def __init__(self, linear_type: type[nn.Module], states: Sequence[dict[str, Tensor]]) -> None:
        """Concatenate the state dicts `states` of the key, value and query projections, modules of `linear_type`."""
        super().__init__()
        fused = {name: torch.cat([state[name] for state in states]) for name in states[0]}
        split = 2 * len(states[0]["weight"])
        self.all = None if can_pack(fused["weight"]) else _build_linear(linear_type, fused)
        # These are views of the fused tensors.
        self.key_value = _build_linear(linear_type, {name: tensor[:split] for name, tensor in fused.items()})
        self.query = _build_linear(linear_type, {name: tensor[split:] for name, tensor in fused.items()})

    def forward(self, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project the inputs of queries, and those of keys and values, to query, key and value."""
        if self.all is not None and queries is keys:
            key, value, query = self.all(keys).chunk(3, -1)
        else:
            key, value = self.key_value(keys).chunk(2, -1)
            query = self.query(queries)
        return query, key, value


def _build_linear(linear_type: type[nn.Module], state: dict[str, Tensor]) -> nn.Module:
    out_features, in_features = state["weight"].shape
    linear = nn.Linear(in_features, out_features, device="meta")
    module = linear if linear_type is nn.Linear else Int8Linear(linear)
    module.load_state_dict(state, assign=True)
    return module


def fuse_qkv(attention: SelfAttention) -> None:
    """Replace the query, key and value projections by `FusedProjections`, unless only some of them are int8."""
    projections = attention.k_proj, attention.v_proj, attention.q_proj
    types = {type(projection) for projection in projections}
    if len(types) == 1:
        states = [projection.state_dict() for projection in projections]
        attention.fused_projections = FusedProjections(types.pop(), states)
        del attention.k_proj, attention.v_proj, attention.q_proj


def fuse_activation(layer: EncoderLayer | ExtractorLayer) -> None:
    """Fuse the activation into the preceding linear layer or convolution if that is packed and no norm follows it."""
    if isinstance(layer, EncoderLayer):
        linear: nn.Module = layer.fc1
    else:
        convolution = layer.get_submodule("0")
        if layer.norm != "none" or not isinstance(convolution, PackedConvolution):
            return
        linear = convolution.linear
    if isinstance(linear, PackedLinear):
        linear.activation = "gelu" if layer.activation is F.gelu else "relu"
        layer.activation = nn.Identity()


def uses_bfloat16_attention(weight: Tensor) -> bool:
    """Return whether a layer with this `weight` runs `bfloat16_attention`: on CPUs with bf16 units, except in fp32."""
    return weight.is_cpu and weight.dtype != torch.float32 and half_precision(weight.device) == torch.bfloat16


def bfloat16_attention(query: Tensor, key: Tensor, value: Tensor, lengths: Tensor | None) -> Tensor:
    """Compute scaled dot-product attention with plain bf16 products, in blocks whose scores fit in the cache.

    query: (batch, heads, queries, channels / heads); key, value: (batch, heads, keys, channels / heads), of which
    `lengths` (batch,) are valid, or all -> the shape and dtype of `query`. oneDNN's products are faster than those in
    torch's `scaled_dot_product_attention`.
    """
    batch, heads, frames, width = query.shape
    out = query.new_empty(batch, frames, heads, width).transpose(1, 2)
    query, key, value = (query / math.sqrt(width)).bfloat16(), key.bfloat16(), value.bfloat16()
    counts = [key.shape[2]] * batch if lengths is None else lengths.tolist()
    for index, count in enumerate(counts):
        block_heads = max(1, MAX_SCORES // (frames * count))
        for block in (slice(first, first + block_heads) for first in range(0, heads, block_heads)):
            keys, values = key[index, block, :count].transpose(1, 2), value[index, block, :count]
            rows = max(1, MAX_SCORES // count)
            row_blocks = zip(query[index, block].split(rows, 1), out[index, block].split(rows, 1), strict=True)
            for queries, block_out in row_blocks:
                block_out.copy_(torch.bmm(torch.bmm(queries, keys).softmax(-1), values))
    return out
