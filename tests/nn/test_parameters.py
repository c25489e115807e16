"""Names and shapes of parameters equal those of the network."""

import dataclasses

import pytest

from w2v_compress.errors import InputError
from w2v_compress.nn.acoustic_model import AcousticModel
from w2v_compress.nn.architecture import ARCHITECTURES, Architecture
from w2v_compress.nn.meta import on_meta_device
from w2v_compress.nn.parameters import check_layer_counts, parameter_shapes

EQUAL_WIDTHS = Architecture(encoder_embed_dim=512, encoder_attention_heads=8, conv_bias=True, learned_upsampling=(2, 5))


@pytest.mark.parametrize("name", [*ARCHITECTURES, "equal widths"])
def test_shapes_are_those_of_the_network_in_its_order(name: str) -> None:
    architecture = EQUAL_WIDTHS if name == "equal widths" else ARCHITECTURES[name]
    with on_meta_device():
        state = AcousticModel(architecture).state_dict()
    assert list(parameter_shapes(architecture).items()) == [(name, tuple(each.shape)) for name, each in state.items()]


def test_more_layers_than_tensors_are_refused_before_anything_is_built() -> None:
    architecture = dataclasses.replace(EQUAL_WIDTHS, encoder_layers=10**9)
    with pytest.raises(InputError, match="`encoder_layers` is 1000000000 layers, too many for a file of 40 tensors"):
        check_layer_counts(architecture, 40)
