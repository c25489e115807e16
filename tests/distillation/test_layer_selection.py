"""Choice of the layers that initialize a student, and the resulting weights."""

import dataclasses

import pytest
import torch

from w2v_compress.distillation.layer_selection import check_layers, choose_layers, extract_layers
from w2v_compress.errors import InputError
from w2v_compress.nn.acoustic_model import AcousticModel
from w2v_compress.nn.architecture import Architecture


def test_the_papers_chain():
    assert choose_layers("every_k", 24, 12) == list(range(0, 24, 2))
    assert choose_layers("every_k", 12, 4) == [0, 3, 6, 9]
    assert choose_layers("first_k", 12, 4) == [0, 1, 2, 3]
    assert choose_layers("last_k", 12, 4) == [8, 9, 10, 11]
    assert choose_layers("every_k", 5, 3) == [0, 1, 2]
    assert choose_layers("every_k", 6, 6) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("count", [0, -1, 7])
def test_impossible_depths_are_rejected(count):
    with pytest.raises(InputError, match=f"encoder_layers is {count}; it must be from 1 to 6"):
        choose_layers("every_k", 6, count)


def test_unknown_selections_are_rejected():
    with pytest.raises(InputError, match="must be one of every_k, first_k, last_k"):
        choose_layers("middle", 6, 2)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([0, 6], "layers has 6; the layers of the initial checkpoint are 0 to 5"),
        ([-1], "layers has -1"),
        ([2, 2], "each layer may be listed only once"),
    ],
)
def test_an_impossible_list_of_layers_is_rejected(layers, message):
    assert check_layers([5, 0], 6) == [5, 0]
    with pytest.raises(InputError, match=message):
        check_layers(layers, 6)


@torch.no_grad()
def test_a_student_equals_the_teacher_without_the_other_layers():
    torch.manual_seed(1)
    architecture = Architecture(
        conv_layers=((16, 10, 5), (16, 8, 4)),
        encoder_layers=6,
        encoder_embed_dim=32,
        encoder_ffn_embed_dim=64,
        encoder_attention_heads=4,
        conv_pos=8,
        conv_pos_groups=4,
    )
    teacher = AcousticModel(architecture).eval()
    student = AcousticModel(dataclasses.replace(architecture, encoder_layers=2)).eval()
    student.load_state_dict(extract_layers(teacher.state_dict(), [0, 3]))
    layers = teacher.w2v_model.encoder.layers
    teacher.w2v_model.encoder.layers = torch.nn.ModuleList([layers[0], layers[3]])
    audio = torch.randn(1, 4000)
    assert torch.equal(student(audio)[0], teacher(audio)[0])
