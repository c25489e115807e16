"""The distillation criterion against literal computations, its sample size, and invalid settings."""

from types import SimpleNamespace

import pytest
import torch
from fairseq.data import Dictionary

import w2v_compress.models  # noqa: F401  (patches fairseq and registers)
from w2v_compress.criterions import ctc_distillation
from w2v_compress.criterions.ctc_distillation import CtcDistillation, CtcDistillationConfig
from w2v_compress.errors import InputError
from w2v_compress.model_file.storage import ModelFile, read_model, write_model
from w2v_compress.models.student_ctc import StudentCtc, StudentCtcConfig
from w2v_compress.nn.architecture import Architecture


def literal_kl(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> float:
    """Return T^2 sum_frames sum_units p (log p - log q) of logits (frames, units) in float64."""
    p, q = ((logits.double() / temperature).log_softmax(-1) for logits in (teacher, student))
    return temperature**2 * (p.exp() * (p - q)).sum().item()


def make_task(model: ModelFile) -> SimpleNamespace:
    dictionary = Dictionary()
    for symbol in model.header.units.symbols[4:]:
        dictionary.add_symbol(symbol)
    return SimpleNamespace(target_dictionary=dictionary, blank_symbol="<s>", cfg=SimpleNamespace(normalize=True))


def make_student(task: SimpleNamespace, architecture: Architecture) -> StudentCtc:
    torch.manual_seed(3)
    return StudentCtc.build_model(StudentCtcConfig(w2v_args={"model": architecture.to_fairseq()}), task)


@pytest.fixture
def teacher_path(tmp_path, tiny_model):
    path = tmp_path / "teacher.safetensors"
    write_model(path, tiny_model(encoder_layers=4))
    return path


@pytest.fixture
def parts(tiny_model, teacher_path):
    """A task, a student and the network of the teacher."""
    model = tiny_model()
    task = make_task(model)
    return task, make_student(task, model.header.architecture), read_model(teacher_path).build()


@pytest.fixture
def criterion(parts, teacher_path):
    """Return criterion(**settings), which builds the criterion with that teacher in fp32."""

    def make(**settings: object) -> CtcDistillation:
        chosen = {"teacher_checkpoint": str(teacher_path), "teacher_precision": "fp32", **settings}
        return CtcDistillation(CtcDistillationConfig(zero_infinity=True, sentence_avg=False, **chosen), parts[0])

    return make


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


def test_loss_is_the_weighted_sum_over_valid_frames(parts, criterion):
    _, student, teacher = parts
    student.eval()
    weights = {"kl_weight": 0.7, "features_penalty_weight": 0.3, "ctc_weight": 0.2}
    batch = sample()
    loss, frames, log = criterion(temperature=2.0, **weights)(student, batch)
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


def test_ctc_term_equals_torchs(parts, criterion):
    _, student, _ = parts
    student.eval()
    batch = sample()
    ctc_alone = {"kl_weight": 0.0, "features_penalty_weight": 0.0, "ctc_weight": 1.0}
    loss, _, log = criterion(**ctc_alone)(student, batch)
    total = 0.0
    for row, length in enumerate((12000, 7000)):
        logits, frames = student.w2v_encoder(batch["net_input"]["source"][row : row + 1, :length])
        target = batch["target"][row, : batch["target_lengths"][row]]
        log_probs = logits[0].log_softmax(-1)[:, None]
        lengths = frames, torch.tensor([len(target)])
        total += torch.nn.functional.ctc_loss(log_probs, target[None], *lengths, reduction="sum").item()
    assert loss.item() == log["ctc"] == pytest.approx(total, rel=1e-4)
    assert "kl" not in log  # the teacher is not run without its weights


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_released_reduction_equals_the_released_code(parts, criterion, temperature):
    """`KLDivLoss(reduction="batchmean") * T^2 + mean(features^2)`, padded frames included, in float64."""
    _, student, teacher = parts
    student.eval()
    batch = sample()
    loss_function = criterion(reduction="released", temperature=temperature, features_penalty_weight=0.5)
    loss, size, log = loss_function(student, batch)
    lengths = torch.tensor([12000, 7000])
    output = student.w2v_encoder.run(batch["net_input"]["source"], lengths)
    taught, _ = teacher(batch["net_input"]["source"], lengths)
    assert (output.frame_lengths < output.logits.shape[1]).any()
    p = (taught.double() / temperature).softmax(-1)
    q = (output.logits.double() / temperature).softmax(-1)
    batchmean = (p * (p.log() - q.log())).sum().item() / 2
    features_penalty = output.features.double().square().mean().item()
    assert size == log["sample_size"] == 2
    assert loss.item() / size == pytest.approx(temperature**2 * batchmean + 0.5 * features_penalty, rel=1e-4)


def test_cosine_and_hidden_terms_are_means_over_valid_frames_and_pairs(parts, criterion):
    _, student, teacher = parts
    student.eval()
    batch = sample()
    weights = {"kl_weight": 0.0, "features_penalty_weight": 0.0, "cosine_weight": 0.5, "hidden_weight": 2.0}
    loss_function = criterion(**weights, hidden_cosine_weight=0.3, hidden_normalize=False)
    assert loss_function.pairs == [(2, 1), (4, 2)]
    loss, _, log = loss_function(student, batch)
    cosine = hidden = 0.0
    for row, length in enumerate((12000, 7000)):
        audio = batch["net_input"]["source"][row : row + 1, :length]
        output, taught = (network.run(audio, return_hidden=True) for network in (student.w2v_encoder, teacher))
        cosine += (1 - torch.cosine_similarity(output.logits, taught.logits, dim=-1)).sum().item()
        for high, low in ((2, 1), (4, 2)):
            a, b = output.hidden[low - 1], taught.hidden[high - 1]
            l1 = (a - b).abs().mean(-1)
            hidden += 0.5 * (l1 + 0.3 * (1 - torch.cosine_similarity(a, b, dim=-1))).sum().item()
    assert log["cosine"] == pytest.approx(cosine, rel=1e-3)
    assert log["hidden"] == pytest.approx(hidden, rel=1e-3)
    assert loss.item() == pytest.approx(0.5 * cosine + 2 * hidden, rel=1e-3)
    assert "kl" not in log


def test_a_narrower_student_learns_through_projections(parts, teacher_path, tiny_model):
    task, _, teacher = parts
    narrow = make_student(task, tiny_model(encoder_embed_dim=16).header.architecture)
    cfg = CtcDistillationConfig(
        teacher_checkpoint=str(teacher_path), hidden_weight=1.0, zero_infinity=True, sentence_avg=False
    )
    loss_function = CtcDistillation(cfg, task)
    shapes = {name: tuple(tensor.shape) for name, tensor in loss_function.state_dict().items()}
    assert shapes["projections.0.weight"] == shapes["projections.1.weight"] == (32, 16)
    assert not set(map(id, teacher.parameters())) & set(map(id, loss_function.parameters()))
    loss_function(narrow, sample())[0].backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in loss_function.parameters())
    assert narrow.w2v_encoder.w2v_model.encoder.layers[0].fc1.weight.grad.abs().sum() > 0


def test_hidden_states_need_a_supported_model(parts, teacher_path):
    task, _, _ = parts
    del task.student_architecture
    with pytest.raises(
        InputError, match="hidden_weight needs hidden states; model must be student_ctc or compressed_ctc"
    ):
        CtcDistillation(
            CtcDistillationConfig(teacher_checkpoint=str(teacher_path), hidden_weight=1.0, sentence_avg=False), task
        )


def test_the_teacher_is_frozen_and_not_saved_with_the_criterion(parts, criterion):
    _, student, teacher = parts
    loss_function = criterion()
    assert not list(loss_function.parameters())
    assert not loss_function.state_dict()
    student.train()
    loss, _, _ = loss_function(student, sample())
    loss.backward()
    network = loss_function.teacher.network
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in network.parameters())
    assert not any(module.training for module in network.modules())
    assert all(torch.equal(tensor, teacher.state_dict()[name]) for name, tensor in network.state_dict().items())
    assert student.w2v_encoder.proj.weight.grad.abs().sum() > 0


def test_the_loss_is_close_in_half_precision(parts, criterion):
    _, student, _ = parts
    student.eval()
    exact = criterion()(student, sample())[2]["kl"]
    near = criterion(teacher_precision="bf16")(student, sample())[2]["kl"]
    assert near != exact
    assert near == pytest.approx(exact, rel=0.05)


def test_cached_posteriors_give_the_same_loss(parts, criterion, tmp_path, monkeypatch):
    _, student, _ = parts
    student.eval()
    exact = criterion()(student, sample())[2]["kl"]
    loss_function = criterion(teacher_cache=str(tmp_path / "cache"))
    first = loss_function(student, sample())[2]["kl"]
    monkeypatch.setattr(loss_function.teacher, "run", None)  # not called again
    assert loss_function(student, sample())[2]["kl"] == pytest.approx(exact, rel=1e-3)
    assert first == pytest.approx(exact, rel=1e-6)
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 2


def test_a_teacher_of_another_frame_rate_is_rejected(parts, tiny_model, tmp_path):
    task, student, _ = parts
    architecture = student.w2v_encoder.architecture
    slower = tmp_path / "slower.safetensors"
    write_model(slower, tiny_model(conv_layers=(*architecture.conv_layers, (16, 2, 2))))
    cfg = CtcDistillationConfig(teacher_checkpoint=str(slower), zero_infinity=True, sentence_avg=False)
    with pytest.raises(InputError, match="their frame rates must be equal"):
        CtcDistillation(cfg, task)(student, sample())


def test_a_teacher_with_other_units_or_without_head_is_rejected(parts, criterion, tiny_model, tmp_path):
    other = tmp_path / "other.safetensors"
    write_model(other, tiny_model(num_units=31))
    with pytest.raises(InputError, match=r"other\.safetensors: its dictionary differs from that of task\.data"):
        criterion(teacher_checkpoint=str(other))
    headless = tmp_path / "headless.pt"
    model = tiny_model()
    state = {f"w2v_encoder.{name}": tensor for name, tensor in model.state.items() if not name.startswith("proj")}
    settings = {"model": model.header.architecture.to_fairseq(), "task": {"normalize": True}}
    cfg = {"model": {"_name": "wav2vec_ctc", "w2v_args": settings}, "task": {"normalize": True}}
    torch.save({"cfg": cfg, "model": state}, headless)
    with pytest.raises(InputError, match=r"headless\.pt: .*the CTC head, is missing: this model was not fine-tuned"):
        criterion(teacher_checkpoint=str(headless))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "criterion.temperature is 0.0; it must be above 0"),
        ({"temperature": float("nan")}, "criterion.temperature is nan"),
        ({"kl_weight": -1.0}, "criterion.kl_weight is -1.0; it must be 0 or above"),
        ({"kl_weight": 0.0, "features_penalty_weight": 0.0}, "are all 0"),
        ({"hidden_weight": 1.0, "hidden_cosine_weight": float("inf")}, "hidden_cosine_weight is inf"),
        ({"hidden_weight": 1.0, "hidden_layers": ["5:1"]}, "the teacher's layers are 1 to 4, not 5"),
        ({"hidden_weight": 1.0, "teacher_cache": "c"}, "teacher_cache has no hidden states"),
        ({"reduction": "released", "teacher_cache": "c"}, "teacher_cache has no padded frames"),
        ({"teacher_precision": "int4"}, "teacher_precision is 'int4'; it must be one of auto, fp32, bf16, fp16"),
    ],
)
def test_invalid_settings_are_rejected(criterion, settings, message):
    with pytest.raises(InputError, match=message):
        criterion(**settings)


def test_an_empty_teacher_is_rejected(parts):
    task, _, _ = parts
    with pytest.raises(InputError, match=r"criterion\.teacher_checkpoint is empty"):
        ctc_distillation.CtcDistillation(CtcDistillationConfig(sentence_avg=False), task)
