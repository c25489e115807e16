"""The network as OpenVINO graphs, for one utterance at a time: the feature extractor, and the encoder at one point.

They compute what `nn.acoustic_model.AcousticModel` computes. Utterances are padded to one of few lengths, because
OpenVINO prepares its kernels anew for each length; masks keep the padding out of the result.
"""

import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import openvino
from openvino import Node, Output
from openvino import opset15 as ops

from ....nn.architecture import LEAST_CHANNELS, Architecture
from ....nn.compression import CompressionPoint
from ....nn.parameters import ENCODER, EXTRACTOR, HEAD, POSITIONAL, PROJECTION
from ....quantization.parts import ATTENTION_OPERANDS
from .group_norm import EPSILON
from .weights import Weights

MASKED = -1e9
"""Added to the score of a padded key: effectively zero probability, and finite in bf16."""
LEVELS = 256
LAST = np.iinfo(np.int64).max
"""End of a slice that reaches to the end of an axis."""
FRAMES, GROUPS = "frames", "groups"
"""The two frame rates of a network: before and after squeezing."""
Value: TypeAlias = Node | Output


class GraphBuilder:
    """Builds the graphs of one model file. Weights are shared between them."""

    def __init__(self, weights: Weights, *, reduced: bool, short_weights: bool = False) -> None:
        """Build from `weights`.

        Args:
            weights: Those of the model file.
            reduced: Whether the graphs will be compiled for bf16.
            short_weights: Whether to round int8 weights of calibrated modules to 7 bits, see
                `Processor.overflows_int8`; the others are multiplied in floating point.
        """
        self.weights, self.reduced, self.short_weights = weights, reduced, short_weights
        self.architecture = weights.file.header.architecture
        self._inputs: dict[str, Node] = {}

    def extractor(self, frames: int) -> openvino.Model:
        """Return the graph from `audio` `(1, 1, samples)` to features `(1, frames, channels)`.

        The length is fixed: with any length, OpenVINO changes the layout of activations between convolutions, which was
        measured to take a third more time. With a group norm the graph also has the inputs `factor` and `offset`, each
        `(1, channels, 1)`, which are those of `fold_group_norm`.
        """
        self._inputs = {}
        x: Value = self._input("audio", 1, 1, samples_of(self.architecture, frames))
        for index, (channels, _, stride) in enumerate(self.architecture.conv_layers):
            name = f"{EXTRACTOR}.{index}.0"
            if index == 0 or self.architecture.has_group_norm:
                x = self._quantized_input(name, x, channel_axis=1)
            else:  # OpenVINO moves no data for these swaps if int8 values are swapped back, but it does for others
                x = _swap_time_and_channels(self._quantized_input(name, x))
            x = ops.convolution(x, self._weight(name), [stride], [0], [0], [1])
            if index == 0 and self.architecture.has_group_norm:
                factor, offset = (self._input(each, 1, channels, 1) for each in ("factor", "offset"))
                x = ops.add(ops.multiply(x, factor), offset)
            elif self.architecture.conv_bias:
                x = ops.add(x, _reshape(self.weights.floating(f"{name}.bias"), 1, -1, 1))
            if not self.architecture.has_group_norm:
                x = self._norm(f"{EXTRACTOR}.{index}.2.1", _swap_time_and_channels(x))
            x = ops.gelu(x, "erf")
        return self._model("features", _swap_time_and_channels(x) if self.architecture.has_group_norm else x)

    def encoder(self, point: CompressionPoint) -> openvino.Model:
        """Return the graph from `features` `(1, frames, channels)` to logits `(1, frames, units)` at `point`.

        The number of frames must be a multiple of the squeeze factor. The other inputs are those of `encoder_masks`.
        """
        self._inputs = {}
        pools = self.architecture.pools_per_layer(point)
        x: Value = self._norm(
            "w2v_model.layer_norm", self._input("features", 1, -1, self.architecture.conv_layers[-1][0])
        )
        if f"{PROJECTION}.weight" in self.weights:
            x = self._linear(PROJECTION, x)
        x = ops.multiply(x, self._mask(FRAMES))  # keeps padding out of the positional convolution
        positional = ops.gelu(self._positional_convolution(x, point.squeeze), "erf")
        x = ops.add(self._mean_pool(x, point.squeeze, FRAMES), positional)
        if not self.architecture.layer_norm_first:
            x = self._norm(f"{ENCODER}.layer_norm", x)
        for index, (query_pool, key_value_pool) in enumerate(pools):
            x = self._layer(f"{ENCODER}.layers.{index}", x, query_pool, key_value_pool)
        if self.architecture.layer_norm_first:
            x = self._norm(f"{ENCODER}.layer_norm", x)
        return self._model("logits", self._linear(HEAD, self._upsample(x, point.squeeze)))

    def _layer(self, name: str, x: Value, query_pool: int, key_value_pool: int) -> Value:
        attention_norm, final_norm = f"{name}.self_attn_layer_norm", f"{name}.final_layer_norm"
        if self.architecture.layer_norm_first:
            x = ops.add(x, self._attention(name, self._norm(attention_norm, x), query_pool, key_value_pool))
            return ops.add(x, self._feed_forward(name, self._norm(final_norm, x)))
        x = self._norm(attention_norm, ops.add(x, self._attention(name, x, query_pool, key_value_pool)))
        return self._norm(final_norm, ops.add(x, self._feed_forward(name, x)))

    def _feed_forward(self, name: str, x: Value) -> Value:
        hidden = self._linear(f"{name}.fc1", x)
        hidden = ops.gelu(hidden, "erf") if self.architecture.activation_fn == "gelu" else ops.relu(hidden)
        return self._linear(f"{name}.fc2", hidden)

    def _attention(self, layer: str, x: Value, query_pool: int, key_value_pool: int) -> Value:
        name = f"{layer}.self_attn"
        width = self.architecture.encoder_embed_dim // self.architecture.encoder_attention_heads
        queries = self._mean_pool(x, query_pool, GROUPS)
        keys = queries if key_value_pool == query_pool else self._mean_pool(x, key_value_pool, GROUPS)
        # One quantized input for all three projections, which have the same scales.
        queries = self._quantized_input(f"{name}.q_proj", queries)
        keys = queries if key_value_pool == query_pool else self._quantized_input(f"{name}.k_proj", keys)
        query = self._heads(self._affine(f"{name}.q_proj", queries))
        key, value = (self._heads(self._affine(f"{name}.{each}", keys)) for each in ("k_proj", "v_proj"))
        query = ops.multiply(query, _constant(width**-0.5))
        query = self._quantized_operand(name, "query", query, width**-0.5)
        key = self._quantized_operand(name, "key", key)
        scores = ops.add(ops.matmul(query, key, False, True), self._key_bias(key_value_pool))
        mixed = ops.transpose(ops.matmul(ops.softmax(scores, -1), value, False, False), _indices(0, 2, 1, 3))
        mixed = ops.reshape(mixed, _indices(0, 0, self.architecture.encoder_embed_dim), True)
        return self._repeat(self._linear(f"{name}.out_proj", mixed), query_pool, x)

    def _heads(self, x: Value) -> Value:
        """Reshape `(1, time, channels)` to `(1, heads, time, channels / heads)`."""
        heads = self.architecture.encoder_attention_heads
        split = ops.reshape(x, _indices(0, 0, heads, self.architecture.encoder_embed_dim // heads), True)
        return ops.transpose(split, _indices(0, 2, 1, 3))

    def _positional_convolution(self, x: Value, stride: int) -> Value:
        """Convolve `x` `(1, time, channels)` with "same" padding, and return every `stride`-th frame."""
        if f"{POSITIONAL}.weight_v" in self.weights:
            direction = self.weights.floating(f"{POSITIONAL}.weight_v")
            norm = ops.reduce_l2(direction, _indices(0, 1, 2), True)
            weight: Value = ops.multiply(direction, ops.divide(self.weights.floating(f"{POSITIONAL}.weight_g"), norm))
        else:
            groups = self.architecture.conv_pos_groups
            scale = _reshape(self.weights.floating(f"{POSITIONAL}.weight_scale"), groups, -1, 1, 1)
            weight = ops.multiply(ops.convert(self.weights.constant(f"{POSITIONAL}.weight"), "f32"), scale)
        kernel = self.architecture.conv_pos
        shift = self.architecture.position_shift(stride)
        more = stride - shift if shift else 0  # one frame more, which is dropped
        padding = [kernel // 2 + more], [(kernel - 1) // 2 + shift]
        x = _swap_time_and_channels(x)
        groups = self.architecture.conv_pos_groups
        missing = LEAST_CHANNELS - self.architecture.encoder_embed_dim // groups
        if self.reduced and missing > 0:
            x = _with_zeros(_reshape(x, groups, LEAST_CHANNELS - missing, -1), (0, missing, 0))
            x = _reshape(x, 1, groups * LEAST_CHANNELS, -1)
            weight = _with_zeros(weight, (0, 0, missing, 0))
        out = ops.add(
            ops.group_convolution(x, weight, [stride], *padding, [1]),
            _reshape(self.weights.floating(f"{POSITIONAL}.bias"), 1, -1, 1),
        )
        if shift:
            out = ops.slice(out, _indices(1), _indices(LAST), _indices(1), _indices(2))
        return _swap_time_and_channels(out)

    def _mean_pool(self, x: Value, factor: int, rate: str) -> Value:
        """Average each group of `factor` valid frames of `x` `(1, time, channels)`."""
        if factor == 1:
            return x
        if rate == GROUPS:  # frames before squeezing are masked already, and a multiple of the factor
            x = ops.multiply(x, self._mask(rate))
            missing = ops.floor_mod(ops.negative(_time(x)), _indices(factor))
            end = ops.concat([_indices(0), missing, _indices(0)], 0)
            x = ops.pad(x, _indices(0, 0, 0), end, "constant", _constant(0.0))
        sums = ops.reduce_sum(_reshape(x, 1, -1, factor, self.architecture.encoder_embed_dim), _indices(2), False)
        return ops.multiply(sums, self._input(f"inverse_counts.{rate}.{factor}", 1, -1, 1))

    def _repeat(self, x: Value, factor: int, like: Value) -> Value:
        """Repeat each frame of `x` `factor` times, up to the number of frames of `like`."""
        if factor == 1:
            return x
        return ops.slice(self._repeat_frames(x, factor), _indices(0), _time(like), _indices(1), _indices(1))

    def _repeat_frames(self, x: Value, factor: int) -> Value:
        """Repeat each frame of `x` `(1, time, channels)` `factor` times."""
        repeated = ops.tile(ops.unsqueeze(x, _indices(2)), _indices(1, 1, factor, 1))
        return _reshape(repeated, 1, -1, self.architecture.encoder_embed_dim)

    def _upsample(self, x: Value, squeeze: int) -> Value:
        if squeeze == 1:
            return x
        if not self.architecture.learned_upsampling:
            return self._repeat_frames(x, squeeze)
        groups = self._linear(f"{ENCODER}.upsampling.{squeeze}", x)
        if self.architecture.upsampling_activation == "gelu":
            groups = ops.gelu(groups, "erf")
        return _reshape(groups, 1, -1, self.architecture.encoder_embed_dim)

    def _linear(self, name: str, x: Value) -> Value:
        return self._affine(name, self._quantized_input(name, x))

    def _affine(self, name: str, x: Value) -> Value:
        """Apply a linear layer to `x` `(1, time, in)`, which is quantized already if it is to be."""
        return ops.add(ops.matmul(x, self._weight(name), False, True), self.weights.floating(f"{name}.bias"))

    def _norm(self, name: str, x: Value) -> Value:
        normalized = ops.mvn(x, _indices(-1), True, EPSILON, "inside_sqrt")
        scaled = ops.multiply(normalized, self.weights.floating(f"{name}.weight"))
        return ops.add(scaled, self.weights.floating(f"{name}.bias"))

    def _weight(self, name: str) -> Value:
        """Return the weight of a linear layer or convolution; an int8 one with its scales, as OpenVINO expects it."""
        if f"{name}.weight_scale" not in self.weights:
            return self.weights.floating(f"{name}.weight")
        shape = self.weights.file.places[f"{name}.weight"].shape
        scale = _reshape(self.weights.floating(f"{name}.weight_scale"), -1, *[1] * (len(shape) - 1))
        integers: Value = ops.convert(self.weights.constant(f"{name}.weight"), "f32")
        if self.short_weights and f"{name}.input_scale" in self.weights:  # OpenVINO stores even numbers as their halves
            integers = _fake_quantize(integers, (-256.0, 254.0), (-256.0, 254.0))
        return ops.multiply(integers, scale)

    def _quantized_input(self, name: str, x: Value, channel_axis: int = 2) -> Value:
        """Quantize the input of a calibrated module, to whole numbers in fp32; return other inputs unchanged.

        OpenVINO computes a product in int8 if both operands are quantized so.
        """
        if f"{name}.input_scale" not in self.weights:
            return x
        zero = float(self.weights.file.array(f"{name}.input_zero"))
        scale = self.weights.file.array(f"{name}.input_scale")
        low, high = -128 - zero, 127 - zero
        if channel_axis == 2:  # OpenVINO has no quantization by channel on this axis
            x = ops.multiply(x, _constant(1 / scale))
            return _fake_quantize(x, (low, high), (low, high))
        channels = scale.reshape(1, -1, 1)
        return _fake_quantize(x, (low * channels, high * channels), (low, high))

    def _quantized_operand(self, attention: str, operand: str, x: Value, factor: float = 1.0) -> Value:
        """Quantize an operand of attention in a calibrated model; `factor` is what it was multiplied by."""
        name = f"{attention}.products.scale"
        if name not in self.weights:
            return x
        scale = factor * float(self.weights.file.array(name)[ATTENTION_OPERANDS.index(operand)])
        low, high = -128 * scale, 127 * scale
        return _fake_quantize(x, (low, high), (low, high))

    def _mask(self, rate: str) -> Node:
        return self._input(f"mask.{rate}", 1, -1, 1)

    def _key_bias(self, factor: int) -> Node:
        return self._input(f"key_bias.{factor}", 1, 1, 1, -1)

    def _input(self, name: str, *shape: int) -> Node:
        if name not in self._inputs:
            self._inputs[name] = ops.parameter(list(shape), np.float32, name=name)
            self._inputs[name].output(0).get_tensor().set_names({name})
        return self._inputs[name]

    def _model(self, name: str, output: Value) -> openvino.Model:
        result = ops.result(output)
        result.output(0).get_tensor().set_names({name})
        return openvino.Model([result], list(self._inputs.values()), name)


def encoder_masks(
    point: CompressionPoint, pools: list[tuple[int, int]], valid: int, frames: int
) -> dict[str, npt.NDArray[np.float32]]:
    """Return the inputs of the encoder's graph besides `features`, for `frames` frames of which `valid` are valid.

    `pools` are (query pooling, key-value pooling) of each layer. Masks are 1 for valid frames; `inverse_counts` is one
    by the number of valid frames in a group; `key_bias` is added to the scores of keys.
    """
    groups, valid_groups = frames // point.squeeze, -(-valid // point.squeeze)
    masks: dict[str, npt.NDArray[np.float32]] = {"mask.frames": _valid(valid, frames).reshape(1, -1, 1)}
    if point.squeeze > 1:
        masks |= _inverse_counts(FRAMES, point.squeeze, valid, frames)
    for factor in {factor for pair in pools for factor in pair if factor > 1}:
        masks |= {"mask.groups": _valid(valid_groups, groups).reshape(1, -1, 1)}
        masks |= _inverse_counts(GROUPS, factor, valid_groups, groups)
    for factor in {key_value_pool for _, key_value_pool in pools}:
        keys = _valid(-(-valid_groups // factor), -(-groups // factor))
        key_bias: npt.NDArray[np.float32] = (1 - keys) * np.float32(MASKED)
        masks |= {f"key_bias.{factor}": key_bias.reshape(1, 1, 1, -1)}
    return masks


def samples_of(architecture: Architecture, frames: int) -> int:
    """Return the number of samples from which the feature extractor computes `frames` frames."""
    return (frames - 1) * architecture.samples_per_frame + architecture.receptive_field


def padded_length(length: int, multiple: int = 1) -> int:
    """Return the length that an utterance of `length` frames is padded to, a multiple of `multiple`.

    There are 16 lengths from each power of two to the next, so less than 1/16 is padding.
    """
    units = math.ceil(length / multiple)
    step = 1 << max(0, units.bit_length() - 5)
    return math.ceil(units / step) * step * multiple


def _valid(count: int, length: int) -> npt.NDArray[np.float32]:
    return (np.arange(length) < count).astype(np.float32)


def _inverse_counts(rate: str, factor: int, valid: int, length: int) -> dict[str, npt.NDArray[np.float32]]:
    counts = np.clip(valid - np.arange(0, length, factor), 1, factor)
    return {f"inverse_counts.{rate}.{factor}": (1 / counts).astype(np.float32).reshape(1, -1, 1)}


def _fake_quantize(x: Value, limits: tuple[npt.ArrayLike, npt.ArrayLike], results: tuple[float, float]) -> Node:
    """Map the range `limits` to the range `results` in 255 steps."""
    return ops.fake_quantize(x, *(_constant(limit) for limit in (*limits, *results)), LEVELS)


def _swap_time_and_channels(x: Value) -> Node:
    return ops.transpose(x, _indices(0, 2, 1))


def _time(x: Value) -> Node:
    """Return the length of axis 1 as a tensor `(1,)`."""
    return ops.gather(ops.shape_of(x), _indices(1), ops.constant(0))


def _reshape(x: Value, *shape: int) -> Node:
    return ops.reshape(x, _indices(*shape), False)


def _with_zeros(x: Value, counts: tuple[int, ...]) -> Node:
    """Append `counts` zeros along each axis."""
    return ops.pad(x, _indices(*[0] * len(counts)), _indices(*counts), "constant", _constant(0.0))


def _indices(*values: int) -> Node:
    return ops.constant(np.array(values, np.int64))


def _constant(value: npt.ArrayLike) -> Node:
    return ops.constant(np.asarray(value, np.float32))
