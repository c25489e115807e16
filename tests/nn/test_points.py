"""The network at all compression points: against a slow reference, in padded batches, at many lengths."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from w2v_compress.errors import InputError
from w2v_compress.nn.acoustic_model import AcousticModel
from w2v_compress.nn.architecture import Architecture
from w2v_compress.nn.attention import SelfAttention
from w2v_compress.nn.compression import CompressionPoint
from w2v_compress.nn.encoder import Encoder, EncoderLayer
from w2v_compress.nn.options import TrainingOptions

Functional = Callable[[str], Tensor]

BASE = Architecture(
    conv_layers=((16, 10, 5),) + ((16, 3, 2),) * 4 + ((16, 2, 2),) * 2,
    encoder_layers=3,
    encoder_embed_dim=24,
    encoder_ffn_embed_dim=40,
    encoder_attention_heads=4,
    conv_pos=8,
    conv_pos_groups=4,
    num_units=7,
)
ARCHITECTURES = {
    "group norm, post-norm": BASE,
    "layer norm, pre-norm": dataclasses.replace(
        BASE, extractor_mode="layer_norm", conv_bias=True, layer_norm_first=True, conv_pos=7
    ),
}
LEARNED = dataclasses.replace(BASE, learned_upsampling=(2, 3))
CENTERED = dataclasses.replace(BASE, centered_positions=True)
LAYERED = [CompressionPoint.parse(text) for text in ("1,1:2:3,2:1:1", "2,3:1:2,1:2:4", "3,1:1:2,2")]
GRID = [CompressionPoint(*factors) for factors in itertools.product((1, 2, 3, 4), (1, 2, 3), (1, 2, 3))]
POINTS = [*GRID, *LAYERED]
SOME = [CompressionPoint.parse(text) for text in ("1,1,1", "2,1,1", "3,2,1", "1,3,2", "4,2,3")] + LAYERED
TIMES = (1, 2, 3, 4, 5, 7, 11, 12, 13)


def randomized(module: nn.Module) -> nn.Module:
    """Randomize all parameters, norms and biases included, at a scale at which outputs differ between frames."""
    torch.manual_seed(5)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, mean=0.2, std=0.3)
    return module.eval()


def model_of(architecture: Architecture, **options: str) -> AcousticModel:
    model = AcousticModel(architecture, **options)
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
            elif "layers" in name:
                parameter.mul_(10)  # else attention weights are nearly uniform
    return model.eval()


# The slow reference: one utterance, frame and head at a time, with all projections at the full frame rate. It shares no
# code with the package and has no padding.


def means(frames: Tensor, factor: int) -> Tensor:
    return torch.stack([frames[start : start + factor].mean(0) for start in range(0, len(frames), factor)])


def repeated(frames: Tensor, factor: int, time: int) -> Tensor:
    return torch.stack([frames[index // factor] for index in range(time)])


def linear(of: Functional, name: str, frames: Tensor) -> Tensor:
    return frames @ of(f"{name}.weight").T + of(f"{name}.bias")


def norm(of: Functional, name: str, frames: Tensor) -> Tensor:
    centred = frames - frames.mean(1, keepdim=True)
    scaled = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
    return scaled * of(f"{name}.weight") + of(f"{name}.bias")


def slow_attention(of: Functional, prefix: str, frames: Tensor, heads: int, query_pool: int, key_pool: int) -> Tensor:
    """Project, then pool; each frame attends with the query of its group; then apply the output projection."""
    query = repeated(means(linear(of, f"{prefix}q_proj", frames), query_pool), query_pool, len(frames))
    key, value = (means(linear(of, f"{prefix}{name}_proj", frames), key_pool) for name in "kv")
    width = frames.shape[1] // heads
    rows = []
    for row in query:
        mixed = []
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            weights = torch.softmax(key[:, part] @ row[part] / math.sqrt(width), dim=0)
            mixed.append(weights @ value[:, part])
        rows.append(torch.cat(mixed))
    return linear(of, f"{prefix}out_proj", torch.stack(rows))


def slow_layer(of: Functional, prefix: str, x: Tensor, shape: Architecture, query_pool: int, key_pool: int) -> Tensor:
    def attention(frames: Tensor) -> Tensor:
        heads = shape.encoder_attention_heads
        return slow_attention(of, f"{prefix}self_attn.", frames, heads, query_pool, key_pool)

    def feed_forward(frames: Tensor) -> Tensor:
        return linear(of, f"{prefix}fc2", F.gelu(linear(of, f"{prefix}fc1", frames)))

    if shape.layer_norm_first:
        x = x + attention(norm(of, f"{prefix}self_attn_layer_norm", x))
        return x + feed_forward(norm(of, f"{prefix}final_layer_norm", x))
    x = norm(of, f"{prefix}self_attn_layer_norm", x + attention(x))
    return norm(of, f"{prefix}final_layer_norm", x + feed_forward(x))


def slow_positions(of: Functional, x: Tensor, kernel: int, groups: int, times: Iterable[int]) -> Tensor:
    """Compute the positional convolution at `times`, tap by tap: `(time, channels)` -> `(times, channels)`."""
    direction = of("pos_conv.0.weight_v")
    weight = of("pos_conv.0.weight_g") * direction / direction.norm(dim=(0, 1), keepdim=True)
    outputs = []
    for time in times:
        out = of("pos_conv.0.bias")
        for tap in range(kernel):
            frame = time + tap - kernel // 2
            if 0 <= frame < len(x):
                parts = zip(weight[:, :, tap].chunk(groups), x[frame].chunk(groups), strict=True)
                out = out + torch.cat([matrix @ part for matrix, part in parts])
        outputs.append(out)
    return torch.stack(outputs)


def slow_encoder(of: Functional, x: Tensor, shape: Architecture, point: CompressionPoint) -> Tensor:
    """Encode one utterance: `(time, channels)` -> the same shape."""
    squeeze, time = point.squeeze, len(x)
    centre = (squeeze - 1) // 2 if shape.centered_positions else 0  # of the frames that are squeezed together
    times = range(centre, time + centre, squeeze)
    x = means(x, squeeze) + F.gelu(slow_positions(of, x, shape.conv_pos, shape.conv_pos_groups, times))
    if not shape.layer_norm_first:
        x = norm(of, "layer_norm", x)
    for layer, (query_pool, key_pool) in enumerate(point.pools_per_layer(shape.encoder_layers)):
        x = slow_layer(of, f"layers.{layer}.", x, shape, query_pool, key_pool)
    if shape.layer_norm_first:
        x = norm(of, "layer_norm", x)
    if shape.learned_upsampling and squeeze > 1:
        wide = F.gelu(linear(of, f"upsampling.{squeeze}", x))
        return wide.reshape(len(x) * squeeze, -1)[:time]
    return repeated(x, squeeze, time)


def in_float64(module: nn.Module) -> tuple[Functional, dict[str, Tensor]]:
    """Return float64 copies of the parameters with gradients of their own: a lookup by name, and a dictionary."""
    values = {name: parameter.detach().double().requires_grad_() for name, parameter in module.named_parameters()}
    return values.__getitem__, values


@torch.no_grad()
@pytest.mark.parametrize("query_pool", [1, 2, 3, 5])
@pytest.mark.parametrize("key_value_pool", [1, 2, 3, 5])
def test_pooled_attention_equals_the_reference(query_pool: int, key_value_pool: int):
    attention = randomized(SelfAttention(24, 4))
    of, _ = in_float64(attention)
    for time in TIMES:
        x = torch.randn(1, time, 24)
        expected = slow_attention(of, "", x[0].double(), 4, query_pool, key_value_pool)
        found = attention(x, None, query_pool, key_value_pool)[0]
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("pools", [(1, 1), (2, 1), (1, 2), (2, 2), (3, 2)])
def test_a_pooled_layer_equals_the_reference_in_a_padded_batch(name: str, pools: tuple[int, int]):
    shape = ARCHITECTURES[name]
    layer = randomized(EncoderLayer(shape, TrainingOptions()))
    of, _ = in_float64(layer)
    lengths = torch.tensor(TIMES)
    x = torch.randn(len(TIMES), max(TIMES), 24)
    found = layer(x, lengths, *pools)
    for row, length in enumerate(TIMES):
        expected = slow_layer(of, "", x[row, :length].double(), shape, *pools)
        torch.testing.assert_close(found[row, :length].double(), expected, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("point", SOME, ids=str)
@pytest.mark.parametrize("shape", [*ARCHITECTURES.values(), CENTERED], ids=[*ARCHITECTURES, "centred positions"])
def test_the_encoder_equals_the_reference(shape: Architecture, point: CompressionPoint):
    encoder = model_of(shape).w2v_model.encoder
    of, _ = in_float64(encoder)
    lengths = torch.tensor(TIMES)
    x = torch.randn(len(TIMES), max(TIMES), 24)
    padded, _ = encoder(x, lengths, point)
    for row, length in enumerate(TIMES):
        expected = slow_encoder(of, x[row, :length].double(), shape, point)
        alone, _ = encoder(x[row : row + 1, :length], None, point)
        torch.testing.assert_close(alone[0].double(), expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(padded[row, :length].double(), expected, rtol=0, atol=1e-5)
    assert padded.std() > 0.1


def gradients(outputs: Tensor, weighting: Tensor, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    found = torch.autograd.grad((outputs * weighting).sum(), list(parameters.values()), allow_unused=True)
    return {name: gradient for name, gradient in zip(parameters, found, strict=True) if gradient is not None}


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("point", [CompressionPoint(1), CompressionPoint(2, 3, 2), *LAYERED[:2]], ids=str)
@pytest.mark.parametrize(
    "shape",
    [*ARCHITECTURES.values(), LEARNED, CENTERED],
    ids=[*ARCHITECTURES, "learned upsampling", "centred positions"],
)
def test_gradients_equal_the_reference(shape: Architecture, point: CompressionPoint, padded: bool):
    """Gradients of the parameters and of the input of the encoder, in float64."""
    encoder = model_of(shape).w2v_model.encoder.double()
    of, copies = in_float64(encoder)
    lengths = [11, 6] if padded else [11]
    x = torch.randn(len(lengths), 11, 24, dtype=torch.float64, requires_grad=True)
    weighting = torch.randn(len(lengths), 11, 24, dtype=torch.float64)
    for row, length in enumerate(lengths):
        weighting[row, length:] = 0  # a loss excludes padding
    found, _ = encoder(x, torch.tensor(lengths) if padded else None, point)
    expected = torch.zeros_like(found)
    for row, length in enumerate(lengths):
        frames = slow_encoder(of, x[row, :length], shape, point)
        expected = (
            expected + F.pad(frames, (0, 0, 0, 11 - length)) * F.one_hot(torch.tensor(row), len(x))[:, None, None]
        )
    reference = gradients(expected, weighting, copies | {"x": x})
    ours = gradients(found, weighting, dict(encoder.named_parameters()) | {"x": x})
    assert ours.keys() == reference.keys()
    for name, gradient in ours.items():
        torch.testing.assert_close(
            gradient, reference[name], rtol=0, atol=1e-9, msg=lambda text, name=name: name + text
        )
    assert ours["x"].abs().max() > 0.01


@torch.no_grad()
def test_learned_upsampling_equals_the_reference():
    """The upsampling of SEW: a linear layer and GELU, whose output is split into consecutive frames."""
    encoder = model_of(LEARNED).w2v_model.encoder
    of, _ = in_float64(encoder)
    for squeeze, time in itertools.product((1, 2, 3), TIMES):
        point = CompressionPoint(squeeze, 2, 1)
        x = torch.randn(1, time, 24)
        expected = slow_encoder(of, x[0].double(), LEARNED, point)
        torch.testing.assert_close(encoder(x, None, point)[0][0].double(), expected, rtol=0, atol=1e-5)
    with pytest.raises(
        InputError, match="compression point 4,1,1: this network learned to upsample for a squeeze of 2, 3"
    ):
        encoder(x, None, CompressionPoint(4))


@torch.no_grad()
@pytest.mark.parametrize(
    "shape",
    [*ARCHITECTURES.values(), LEARNED, CENTERED],
    ids=[*ARCHITECTURES, "learned upsampling", "centred positions"],
)
def test_logits_in_a_mixed_batch_equal_those_of_single_utterances(shape: Architecture):
    """At all points, with all remainders of the frame counts; the shortest utterance has one frame."""
    model = model_of(shape)
    frames = [*range(1, 14), 31]
    samples = torch.tensor([400 + 320 * (count - 1) + 37 * (count % 9) for count in frames])
    audio = torch.randn(len(samples), int(samples.max())) + 0.3
    points = [point for point in POINTS if not shape.learned_upsampling or point.squeeze <= 3]
    for point in points:
        logits, found = model(audio, samples, point)
        assert logits.shape == (len(frames), 31, 7)
        assert found.tolist() == frames
        for row, (length, count) in enumerate(zip(samples, frames, strict=True)):
            alone, (alone_frames,) = model(audio[row : row + 1, :length], None, point)
            assert alone.shape[1] == alone_frames == count  # 50 Hz at every point
            torch.testing.assert_close(logits[row, :count], alone[0], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_in_padded_mode_only_the_group_norm_depends_on_padding():
    """Mode "padded" reproduces the group norm of stock fairseq, whose statistics include padding."""
    model = model_of(BASE, group_norm_statistics="padded")
    samples = torch.tensor([9000, 4700, 1111, 400])
    audio = torch.randn(4, 9000)
    features = model.w2v_model.extract_features(audio, samples)
    frames = model.frame_lengths(samples)
    for point in POINTS:
        logits, _ = model(audio, samples, point)
        for row, count in enumerate(frames):
            alone, _ = model.w2v_model.encode(features[row : row + 1, :count], None, point, None, False)
            torch.testing.assert_close(logits[row, :count], model.proj(alone)[0], rtol=1e-4, atol=1e-4)
    invariant = model_of(BASE)(audio, samples, CompressionPoint(2))[0]
    assert (model(audio, samples, CompressionPoint(2))[0] - invariant)[1, :10].abs().max() > 1e-3


@torch.no_grad()
def test_outputs_differ_between_points():
    """A network that ignores the point would pass the tests of batches."""
    model = model_of(BASE)
    audio = torch.randn(1, 9000)
    outputs = [model(audio, None, point)[0] for point in POINTS]
    for one, other in itertools.combinations(outputs, 2):
        assert (one - other).abs().max() > 1e-3


@torch.no_grad()
def test_squeezing_shortens_the_input_of_every_layer():
    encoder = model_of(BASE).w2v_model.encoder
    seen: list[int] = []
    for layer in encoder.layers:
        layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
    _, hidden = encoder(torch.randn(1, 13, 24), None, CompressionPoint(4), return_hidden=True)
    assert seen == [4, 4, 4]
    assert [states.shape for states in hidden] == [(1, 13, 24)] * 3
    assert all(torch.equal(states[:, 0:4], states[:, :1].expand(-1, 4, -1)) for states in hidden)


def test_a_point_with_another_number_of_layers_is_rejected():
    with pytest.raises(InputError, match="`query_pool` has 2 factors, but the network has 3 layers"):
        model_of(BASE)(torch.randn(1, 4000), None, CompressionPoint.parse("2,1:2,1"))


@pytest.mark.parametrize("point", [CompressionPoint(1), CompressionPoint(3, 2, 2), LAYERED[0]], ids=str)
def test_activation_checkpointing_does_not_change_gradients(point: CompressionPoint):
    """With dropout, which must draw the same masks again, and LayerDrop."""
    x, lengths = torch.randn(2, 13, 24), torch.tensor([13, 8])

    def run(checkpointed: bool) -> dict[str, Tensor]:
        options = TrainingOptions(
            dropout=0.2, attention_dropout=0.2, layerdrop=0.3, checkpoint_activations=checkpointed
        )
        torch.manual_seed(2)
        encoder = Encoder(BASE, options)
        torch.manual_seed(3)
        encoder(x, lengths, point)[0].square().sum().backward()
        return {name: weight.grad for name, weight in encoder.named_parameters() if weight.grad is not None}

    stored, recomputed = run(False), run(True)
    assert stored.keys() == recomputed.keys()
    for name, gradient in stored.items():
        torch.testing.assert_close(recomputed[name], gradient, rtol=1e-5, atol=1e-7)


@torch.no_grad()
def test_skipping_a_layer_does_not_shift_the_factors_of_later_layers():
    """LayerDrop skips the second of three layers with factors per layer."""
    point = CompressionPoint.parse("2,1:2:3,3:2:1")
    encoder = model_of(BASE).w2v_model.encoder
    shorter = model_of(dataclasses.replace(BASE, encoder_layers=2)).w2v_model.encoder
    state = {name: value for name, value in encoder.state_dict().items() if not name.startswith("layers.1.")}
    shorter.load_state_dict({name.replace("layers.2.", "layers.1."): value for name, value in state.items()})
    encoder.layers_to_skip = lambda: {1}
    x = torch.randn(1, 11, 24)
    found, expected = encoder(x, None, point)[0], shorter(x, None, CompressionPoint.parse("2,1:3,3:1"))[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
