"""A network made ready to run and no more to be trained: what its products need of the weights is worked out once.

On x86, oneDNN's products of fp32 and bf16 take weights in the order in which they read them. torch's own bring bf16
weights into that order at each call, and leave fp32 to MKL, which is slower on processors of other makers.
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
    StridedConvolution,
    WeightNormConvolution,
    group_windows,
    grouped_convolution,
    split_groups,
    whole_windows,
)
from ..nn.device import half_precision
from ..nn.encoder import EncoderLayer
from ..nn.feature_extractor import ExtractorLayer
from ..quantization.int8 import Int8Linear

SCORES_AT_ONCE = 512 * 1024  # numbers of bf16; more leave a core's second cache


def prepare(model: AcousticModel) -> None:
    """Replace the modules of `model`, which is where it is to run and in the precision to run in, by those below."""
    for module in list(model.modules()):
        if isinstance(module, SelfAttention):
            join_projections(module)
            if attends_in_bfloat16(module.out_proj.weight):
                module.attend = attend_in_bfloat16
    for name, module in list(model.named_modules()):
        substitute = _substitute(module)
        if substitute is not None:
            model.set_submodule(name, substitute)
    for module in model.modules():
        if isinstance(module, EncoderLayer | ExtractorLayer):
            join_activation(module)


def _substitute(module: nn.Module) -> nn.Module | None:
    if isinstance(module, WeightNormConvolution):
        return PositionalConvolution(module)
    if isinstance(module, nn.Linear) and can_pack(module.weight):
        return PackedLinear(module.weight, module.bias)
    # The first convolution stays: its weights are rescaled for each utterance by the group norm.
    if isinstance(module, StridedConvolution) and module.weight.shape[1] > 1 and can_pack(module.weight):
        return PackedConvolution(module)
    return None


def can_pack(weight: Tensor) -> bool:
    """Whether oneDNN multiplies with packed weights like this one here."""
    return weight.is_cpu and _can_pack(weight.dtype)


@functools.cache
def _can_pack(dtype: torch.dtype) -> bool:
    """The operators are those that torch.compile emits, not a promise of torch's, so one product is tried out."""
    known = platform.machine().lower() in ("x86_64", "amd64") and torch.backends.mkldnn.is_available()
    if not known or dtype not in (torch.float32, torch.bfloat16):
        return False
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
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
    """`nn.Linear` over a packed weight, and after it "gelu", "relu" or "none" of them: (..., in) -> (..., out)"""

    def __init__(self, weight: Tensor, bias: Tensor | None, activation: str = "none") -> None:
        super().__init__()
        # Not a parameter: the order is oneDNN's own, and nothing else can read it.
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous())
        self.bias = bias
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        # "none" at the end: GELU by the error function, not by tanh.
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, self.activation, [], "none")


class PackedConvolution(nn.Module):
    """`StridedConvolution` over packed weights: (batch, time, in) -> (batch, (time - kernel) // stride + 1, out)

    One product over copied windows: of the few frames that there are at a time, copies stay in the cache.
    """

    def __init__(self, convolution: StridedConvolution) -> None:
        super().__init__()
        self.kernel, self.stride = convolution.kernel, convolution.stride
        self.product = PackedLinear(convolution.effective_weight().transpose(1, 2).flatten(1), convolution.bias)

    def forward(self, x: Tensor) -> Tensor:
        windows = whole_windows(x, self.kernel, self.stride)
        return self.product(windows.clone(memory_format=torch.contiguous_format))


class PositionalConvolution(nn.Module):
    """`WeightNormConvolution` with the norm worked in, and its shapes.

    With packed weights each group is one product over its windows; else it stays a grouped convolution.
    """

    def __init__(self, convolution: WeightNormConvolution) -> None:
        super().__init__()
        self.groups = convolution.groups
        weight = convolution.effective_weight().detach()  # (channels, channels / groups, kernel)
        self.kernel = weight.shape[2]
        self.bias = convolution.bias
        packed = can_pack(weight)
        self.products = nn.ModuleList(
            PackedLinear(rows.transpose(1, 2).flatten(1), bias)
            for rows, bias in zip(weight.chunk(self.groups), self.bias.chunk(self.groups), strict=True)
            if packed
        )
        self.weight = None if packed else nn.Parameter(weight, requires_grad=False)

    def forward(self, x: Tensor, stride: int = 1) -> Tensor:
        if self.weight is not None:
            return grouped_convolution(x, self.weight, self.bias, stride, self.groups)
        frames = -(-x.shape[1] // stride)
        out = x.new_empty(len(x), frames, self.groups, x.shape[2] // self.groups)
        for index, utterance in enumerate(split_groups(x, self.groups, self.kernel)):
            for group, product in enumerate(self.products):
                out[index, :, group] = product(group_windows(utterance[group], self.kernel, stride))
        return out.flatten(2)


class JointProjections(nn.Module):
    """Query, key and value of rows for queries and rows for keys and values, each (batch, time, channels).

    One product where both are the same rows, which int8 then quantizes once, else one of keys and values. Packed
    weights cannot be shared by the two, so queries are always apart there.
    """

    def __init__(self, kind: type[nn.Module], states: Sequence[dict[str, Tensor]]) -> None:
        """`states`: of three modules of that kind, for key, value and query."""
        super().__init__()
        together = {name: torch.cat([state[name] for state in states]) for name in states[0]}
        split = 2 * len(states[0]["weight"])
        self.whole = None if can_pack(together["weight"]) else _linear(kind, together)
        # Rows of the same memory.
        self.key_value = _linear(kind, {name: tensor[:split] for name, tensor in together.items()})
        self.query = _linear(kind, {name: tensor[split:] for name, tensor in together.items()})

    def forward(self, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.whole is not None and queries is keys:
            key, value, query = self.whole(keys).chunk(3, -1)
        else:
            key, value = self.key_value(keys).chunk(2, -1)
            query = self.query(queries)
        return query, key, value


def _linear(kind: type[nn.Module], state: dict[str, Tensor]) -> nn.Module:
    out_features, in_features = state["weight"].shape
    linear = nn.Linear(in_features, out_features, device="meta")
    module = linear if kind is nn.Linear else Int8Linear(linear)
    module.load_state_dict(state, assign=True)
    return module


def join_activation(layer: EncoderLayer | ExtractorLayer) -> None:
    """Let the product before the activation work that out too, while its results are at hand."""
    if isinstance(layer, EncoderLayer):
        product: nn.Module = layer.fc1
    else:
        convolution = layer.get_submodule("0")
        if layer.norm != "none" or not isinstance(convolution, PackedConvolution):
            return
        product = convolution.product
    if isinstance(product, PackedLinear):
        product.activation = "gelu" if layer.activation is F.gelu else "relu"
        layer.activation = nn.Identity()


def attends_in_bfloat16(weight: Tensor) -> bool:
    """Whether a layer with such a weight is best off with `attend_in_bfloat16`: fp32 asks for what is exact."""
    return weight.is_cpu and weight.dtype != torch.float32 and half_precision(weight.device) == torch.bfloat16


def attend_in_bfloat16(query: Tensor, key: Tensor, value: Tensor, lengths: Tensor | None) -> Tensor:
    """`SelfAttention.attend` of one plain product after the other, as many heads or queries at once as leave their
    scores in the cache: oneDNN's products are faster than those of torch's `scaled_dot_product_attention`.
    """
    batch, heads, frames, width = query.shape
    out = query.new_empty(batch, frames, heads, width).transpose(1, 2)
    query, key, value = (query / math.sqrt(width)).bfloat16(), key.bfloat16(), value.bfloat16()
    counts = [key.shape[2]] * batch if lengths is None else lengths.tolist()
    for index, count in enumerate(counts):
        at_once = max(1, SCORES_AT_ONCE // (frames * count))
        for some in (slice(first, first + at_once) for first in range(0, heads, at_once)):
            keys, values = key[index, some, :count].transpose(1, 2), value[index, some, :count]
            rows = max(1, SCORES_AT_ONCE // count)
            for queries, place in zip(query[index, some].split(rows, 1), out[index, some].split(rows, 1), strict=True):
                place.copy_(torch.bmm(torch.bmm(queries, keys).softmax(-1), values))
    return out


def join_projections(attention: SelfAttention) -> None:
    """Put `JointProjections` in place, unless some of the three are int8 and others are not."""
    projections = attention.k_proj, attention.v_proj, attention.q_proj
    kinds = {type(projection) for projection in projections}
    if len(kinds) == 1:
        attention.joint = JointProjections(kinds.pop(), [projection.state_dict() for projection in projections])
        del attention.k_proj, attention.v_proj, attention.q_proj
