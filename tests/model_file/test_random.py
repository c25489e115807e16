"""Models with random weights."""

import pytest
import torch

from w2v_compress.errors import InputError
from w2v_compress.model_file.random import random_model
from w2v_compress.nn.architecture import Architecture

SIZES = {"encoder_layers": 1, "encoder_embed_dim": 32, "encoder_ffn_embed_dim": 8, "encoder_attention_heads": 2}


def test_weights_depend_on_the_seed_alone_and_leave_the_global_generator_as_it_is() -> None:
    before = torch.random.get_rng_state()
    one, same, other = (random_model(Architecture(**SIZES), seed).state for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(tensor, same[name]) for name, tensor in one.items())
    assert not torch.equal(one["proj.weight"], other["proj.weight"])


def test_default_point_is_the_smallest_squeeze_factor_with_learned_upsampling() -> None:
    for learned, point in (((), "1,1,1"), ((3, 2), "2,1,1")):
        header = random_model(Architecture(**SIZES, learned_upsampling=learned)).header
        assert (str(header.point), header.describe_space()) == (point, point)


def test_units_are_letters() -> None:
    with pytest.raises(InputError, match="`units` has 32 symbols; the architecture's `num_units` is 30"):
        random_model(Architecture(**SIZES, num_units=30))
