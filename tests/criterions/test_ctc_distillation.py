"""The distillation loss against a literal computation, and what it counts."""

import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch
from fairseq.data import Dictionary

import w2v_compress.models  # noqa: F401  (mends and registers)
from w2v_compress.criterions import ctc_distillation
from w2v_compress.criterions.ctc_distillation import CtcDistillation, CtcDistillationConfig, kl_divergence
from w2v_compress.errors import InputError
from w2v_compress.models.student_ctc import StudentCtc, StudentCtcConfig
from w2v_compress.nn import AcousticModel


def literal_kl(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> float:
    """T^2 sum_frames sum_units p log(p / q), as "Shrinking Bigfoot" section 3 writes it, in float64."""
    total = 0.0
    for s, t in zip(student.double().tolist(), teacher.double().tolist(), strict=True):
        p = [math.exp((value - max(t)) / temperature) for value in t]
        q = [math.exp((value - max(s)) / temperature) for value in s]
        p, q = [value / sum(p) for value in p], [value / sum(q) for value in q]
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)
    return temperature**2 * total


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_kl_is_the_formula(temperature):
    torch.manual_seed(1)
    student, teacher = 4 * torch.randn(9, 7), 4 * torch.randn(9, 7)
    value = kl_divergence(student, teacher, temperature).item()
    assert value == pytest.approx(literal_kl(student, teacher, temperature), rel=1e-5)
    assert kl_divergence(teacher, teacher, temperature).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_extreme_logits_give_finite_losses_and_gradients(dtype, temperature):
    student = torch.tensor([[6e4, -6e4, 0.0], [0.0, 0.0, 0.0]], dtype=dtype, requires_grad=True)
    teacher = torch.tensor([[-6e4, 6e4, 0.0], [6e4, 0.0, -6e4]], dtype=dtype)
    loss = kl_divergence(student, teacher, temperature)
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()


@pytest.fixture
def parts(tiny_model):
    """A task, a student of it and a teacher."""
    model = tiny_model()
    dictionary = Dictionary()
    for symbol in model.header.units.symbols[4:]:
        dictionary.add_symbol(symbol)
    task = SimpleNamespace(target_dictionary=dictionary, blank_symbol="<s>", cfg=SimpleNamespace(normalize=True))
    cfg = StudentCtcConfig(w2v_args={"model": model.header.architecture.to_fairseq()})
    torch.manual_seed(3)
    student = StudentCtc.build_model(cfg, task)
    return task, student, model.build()


def criterion(parts, monkeypatch, **settings) -> CtcDistillation:
    task, _, teacher = parts
    monkeypatch.setattr(CtcDistillation, "_load_teacher", lambda self, task: teacher)
    cfg = CtcDistillationConfig(teacher_checkpoint="teacher.pt", zero_infinity=True, sentence_avg=False, **settings)
    return CtcDistillation(cfg, task)


def sample(samples: int = 12000, shorter: int = 7000) -> dict:
    torch.manual_seed(5)
    source = torch.randn(2, samples)
    padding = torch.zeros(2, samples, dtype=torch.bool)
    padding[1, shorter:] = True
    source[padding] = 0
    target = torch.tensor([[5, 6, 4], [7, 4, 1]])  # 1 is <pad>
    return {
        "id": torch.tensor([0, 1]),
        "net_input": {"source": source, "padding_mask": padding},
        "target": target,
        "target_lengths": torch.tensor([3, 2]),
        "ntokens": 5,
    }


def test_loss_is_the_weighted_sum_over_valid_frames_alone(parts, monkeypatch):
    _, student, teacher = parts
    student.eval()
    weights = {"kl_weight": 0.7, "features_penalty_weight": 0.3, "ctc_weight": 0.2}
    batch = sample()
    loss, frames, log = criterion(parts, monkeypatch, temperature=2.0, **weights)(student, batch)
    kl = features_penalty = 0.0
    counted = 0
    for row, length in enumerate((12000, 7000)):
        audio = batch["net_input"]["source"][row : row + 1, :length]
        output = student.w2v_encoder.run(audio)
        counted += output.logits.shape[1]
        kl += literal_kl(output.logits[0], teacher(audio)[0][0], 2.0)
        features_penalty += output.features.square().mean(-1).sum().item()
    assert frames == log["sample_size"] == counted
    assert log["kl"] == pytest.approx(kl, rel=1e-3)
    assert log["features_penalty"] == pytest.approx(features_penalty, rel=1e-3)
    assert loss.item() == pytest.approx(0.7 * kl + 0.3 * features_penalty + 0.2 * log["ctc"], rel=1e-3)


def test_ctc_term_is_torchs(parts, monkeypatch):
    _, student, _ = parts
    student.eval()
    batch = sample()
    ctc_alone = {"kl_weight": 0.0, "features_penalty_weight": 0.0, "ctc_weight": 1.0}
    loss, _, log = criterion(parts, monkeypatch, **ctc_alone)(student, batch)
    total = 0.0
    for row, length in enumerate((12000, 7000)):
        logits, frames = student.w2v_encoder(batch["net_input"]["source"][row : row + 1, :length])
        target = batch["target"][row, : batch["target_lengths"][row]]
        log_probs = logits[0].log_softmax(-1)[:, None]
        lengths = frames, torch.tensor([len(target)])
        total += torch.nn.functional.ctc_loss(log_probs, target[None], *lengths, reduction="sum").item()
    assert loss.item() == log["ctc"] == pytest.approx(total, rel=1e-4)
    assert "kl" not in log  # without its weight, the teacher is not run


def test_the_teacher_is_frozen_and_not_part_of_the_criterion(parts, monkeypatch):
    _, student, teacher = parts
    loss_function = criterion(parts, monkeypatch)
    assert not list(loss_function.parameters())
    assert not loss_function.state_dict()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    student.train()
    loss, _, _ = loss_function(student, sample())
    loss.backward()
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in teacher.parameters())
    assert not teacher.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert student.w2v_encoder.proj.weight.grad.abs().sum() > 0


def test_teacher_of_another_frame_rate_is_refused(parts, monkeypatch):
    task, student, teacher = parts
    slower = dataclasses.replace(teacher.architecture, conv_layers=(*teacher.architecture.conv_layers, (16, 2, 2)))
    with pytest.raises(InputError, match="their frame rates must be equal"):
        criterion((task, student, AcousticModel(slower).eval()), monkeypatch)(student, sample())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "criterion.temperature is 0.0; it must be above 0"),
        ({"temperature": float("nan")}, "criterion.temperature is nan"),
        ({"kl_weight": -1.0}, "criterion.kl_weight is -1.0; it must be 0 or above"),
        ({"kl_weight": 0.0, "features_penalty_weight": 0.0}, "are all 0"),
    ],
)
def test_wrong_settings_are_named(parts, monkeypatch, settings, message):
    with pytest.raises(InputError, match=message):
        criterion(parts, monkeypatch, **settings)


def test_an_empty_teacher_is_named(parts):
    task, _, _ = parts
    with pytest.raises(InputError, match=r"criterion\.teacher_checkpoint is empty"):
        ctc_distillation.CtcDistillation(CtcDistillationConfig(sentence_avg=False), task)
