"""The CTC losses of lower layers against stock CTC of networks that end there."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from fairseq.criterions.ctc import CtcCriterion, CtcCriterionConfig
from fairseq.data import Dictionary

import w2v_compress.models  # noqa: F401  (patches fairseq and registers)
from w2v_compress.criterions.intermediate_ctc import IntermediateCtc, IntermediateCtcConfig
from w2v_compress.errors import InputError
from w2v_compress.models.student_ctc import StudentCtc, StudentCtcConfig


@pytest.fixture(params=[False, True], ids=["post-norm", "pre-norm"])
def parts(request, tiny_model):
    """A task and a model of three layers."""
    model = tiny_model(encoder_layers=3, layer_norm_first=request.param)
    dictionary = Dictionary()
    for symbol in model.header.units.symbols[4:]:
        dictionary.add_symbol(symbol)
    task = SimpleNamespace(target_dictionary=dictionary, blank_symbol="<s>", cfg=SimpleNamespace(normalize=True))
    torch.manual_seed(3)
    cfg = StudentCtcConfig(w2v_args={"model": model.header.architecture.to_fairseq()})
    return task, StudentCtc.build_model(cfg, task).train()


def sample() -> dict:
    torch.manual_seed(5)
    padding = torch.arange(12000) >= torch.tensor([[12000], [7000]])
    return {
        "id": torch.tensor([0, 1]),
        "net_input": {"source": torch.randn(2, 12000).masked_fill(padding, 0), "padding_mask": padding},
        "target": torch.tensor([[5, 6, 4], [7, 4, 1]]),  # 1 is <pad>
        "target_lengths": torch.tensor([3, 2]),
        "ntokens": 5,
    }


def stock_loss(task: SimpleNamespace, model: StudentCtc) -> torch.Tensor:
    return CtcCriterion(CtcCriterionConfig(), task)(model, sample())[0]


def test_loss_mixes_those_of_the_shortened_networks(parts):
    task, model = parts
    cfg = IntermediateCtcConfig(intermediate_layers=[1, 2], intermediate_weight=0.25)
    loss, size, logged = IntermediateCtc(cfg, task)(model, sample())
    stock_size = CtcCriterion(CtcCriterionConfig(), task)(model, sample())[1]
    expected = 0.75 * stock_loss(task, model)
    layers = model.w2v_encoder.w2v_model.encoder.layers
    for count in (1, 2):
        model.w2v_encoder.w2v_model.encoder.layers = layers[:count]
        model.w2v_encoder.w2v_model.encoder.architecture = dataclasses.replace(
            model.w2v_encoder.architecture, encoder_layers=count
        )
        expected = expected + 0.125 * stock_loss(task, model)
    torch.testing.assert_close(loss, expected)
    assert size == stock_size
    assert logged["intermediate_ctc"] > 0


def test_validation_is_stock(parts):
    task, model = parts
    model.eval()
    cfg = IntermediateCtcConfig(intermediate_layers=[1])
    loss, _, logged = IntermediateCtc(cfg, task)(model, sample())
    torch.testing.assert_close(loss, stock_loss(task, model), rtol=0, atol=0)
    assert "intermediate_ctc" not in logged
    assert logged["c_total"] == 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"intermediate_layers is \[\]; it must list layers from 1 to 2"),
        ({"intermediate_layers": [3]}, "intermediate_layers"),
        ({"intermediate_layers": [0]}, "intermediate_layers"),
        ({"intermediate_layers": [1, 1]}, "each once"),
        (
            {"intermediate_layers": [1], "intermediate_weight": 1.5},
            r"intermediate_weight is 1.5; it must be from 0 to 1",
        ),
        ({"intermediate_layers": [1], "intermediate_weight": float("nan")}, "intermediate_weight"),
    ],
)
def test_invalid_settings(parts, settings, message):
    with pytest.raises(InputError, match=message):
        IntermediateCtc(IntermediateCtcConfig(**settings), parts[0])


def test_stock_models_are_rejected(parts):
    task, _ = parts
    del task.student_architecture
    with pytest.raises(InputError, match="student_ctc or compressed_ctc"):
        IntermediateCtc(IntermediateCtcConfig(intermediate_layers=[1]), task)
