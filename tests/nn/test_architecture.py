"""Architectures: validation, frame counts, and parsing of the expressions that fairseq evaluates."""

import dataclasses

import pytest
import torch

from w2v_compress.errors import InputError
from w2v_compress.nn.acoustic_model import AcousticModel
from w2v_compress.nn.architecture import (
    ARCHITECTURES,
    WAV2VEC2_CONV_LAYERS,
    Architecture,
    named_architecture,
    parse_conv_layers,
)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("encoder_layers", 0, "`encoder_layers` is 0; it must be a whole number of at least 1"),
        ("encoder_layers", 2.5, "`encoder_layers` is 2.5"),
        ("encoder_attention_heads", 7, "must divide `encoder_embed_dim`"),
        ("conv_pos_groups", 7, "must divide `encoder_embed_dim`"),
        ("extractor_mode", "batch_norm", "must be one of default, layer_norm"),
        ("activation_fn", "tanh", "must be one of gelu, relu"),
        ("conv_layers", (), "`conv_layers` is"),
        ("conv_layers", ((512, 10),), "`conv_layers` is"),
        ("conv_layers", ((512, 10, 0),), "each at least 1"),
        ("layer_norm_first", "yes", "`layer_norm_first` is 'yes'; it must be true or false"),
        ("centered_positions", 1, "`centered_positions` is 1; it must be true or false"),
    ],
)
def test_an_invalid_value_raises_an_error_with_the_field(field, value, message):
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        dataclasses.replace(Architecture(), **{field: value})


def test_architectures_round_trip_through_dictionaries_and_fairseq_settings():
    for architecture in (*ARCHITECTURES.values(), Architecture(centered_positions=True)):
        assert Architecture.from_dict(architecture.to_dict()) == architecture
        settings = architecture.to_fairseq()
        assert Architecture.from_fairseq(settings, num_units=architecture.num_units) == architecture
    with pytest.raises(InputError, match="unknown field `depth`"):
        Architecture.from_dict({"depth": 3})
    with pytest.raises(InputError, match="`layer_type` is 'conformer'; only 'transformer' is supported"):
        Architecture.from_fairseq({"layer_type": "conformer"}, num_units=32)


@pytest.mark.parametrize("samples", [0, 1, 399, 400, 401, 719, 720, 16000, 123457])
def test_frame_count_equals_the_output_length_of_the_convolutions(samples):
    architecture = dataclasses.replace(
        Architecture(), conv_layers=tuple((4, kernel, stride) for _, kernel, stride in WAV2VEC2_CONV_LAYERS),
        encoder_layers=1, encoder_embed_dim=16, encoder_attention_heads=2, encoder_ffn_embed_dim=16,
    )  # fmt: skip
    assert architecture.receptive_field == 400
    assert architecture.samples_per_frame == 320
    expected = max(0, (samples - 400) // 320 + 1)
    assert architecture.frames(samples) == expected
    model = AcousticModel(architecture)
    assert model.frame_lengths(torch.tensor([samples])).item() == expected
    if expected:
        assert model(torch.randn(1, samples))[0].shape == (1, expected, 32)


def test_named_architectures():
    assert named_architecture("student-4").encoder_layers == 4
    with pytest.raises(InputError, match="must be one of base, large"):
        named_architecture("tiny")


def test_conv_layers_parse_as_in_fairseq():
    text = "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + [(512,2,2)]"
    assert parse_conv_layers(text) == WAV2VEC2_CONV_LAYERS == tuple(eval(text))
    assert parse_conv_layers("((8, 3, 1),)") == ((8, 3, 1),)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "[(512, 10, 5)] if True else []",
        "[(512, 10, x)]",
        "[(512, 10, 5)] * 1000000000",
        "1000000000 * [(512, 10, 5)]",
        "[(512, 10, 5)]" + " * 60" * 20,
        "[[0] * 9999999] * 9999999",
        "9 * 9",
        "[(512, 10, '5')]",
        "[(1.5, 10, 5)]",
        "(" * 500,
        "",
    ],
)
def test_other_expressions_are_rejected(text):
    with pytest.raises(InputError):
        parse_conv_layers(text)
