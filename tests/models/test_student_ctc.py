"""`student_ctc`: what it takes from its initial checkpoint, masking, and what it refuses."""

from types import SimpleNamespace

import pytest
import torch
from fairseq.data import Dictionary
from omegaconf import OmegaConf

import w2v_compress.models  # noqa: F401  (mends and registers)
from w2v_compress.errors import InputError
from w2v_compress.models.student_ctc import StudentCtc, StudentCtcConfig

LETTERS = "|ETAONIHSRDLUMWCFGYPBVK'XJQZ"


def task(symbols: str = LETTERS, normalize: bool = True) -> SimpleNamespace:
    dictionary = Dictionary()
    for symbol in symbols:
        dictionary.add_symbol(symbol)
    return SimpleNamespace(target_dictionary=dictionary, cfg=SimpleNamespace(normalize=normalize))


@pytest.fixture
def teacher(tmp_path, tiny_model):
    """A stock checkpoint of four layers, and its tensors."""
    model = tiny_model(encoder_layers=4)
    settings = model.header.architecture.to_fairseq()
    path = tmp_path / "teacher.pt"
    state = {f"w2v_encoder.{name}": tensor for name, tensor in model.state.items()}
    cfg = {
        "model": {"_name": "wav2vec_ctc", "w2v_args": {"model": settings, "task": {"normalize": True}}},
        "task": {"_name": "audio_finetuning", "normalize": True, "labels": "ltr"},
    }
    torch.save({"cfg": cfg, "model": state, "task_state": {"target_dictionary": task().target_dictionary}}, path)
    return path, model.state


def config(path: object, **changes: object) -> StudentCtcConfig:
    cfg = OmegaConf.structured(StudentCtcConfig(init_checkpoint=str(path), encoder_layers=2))
    return OmegaConf.merge(cfg, {"normalize": True, "data": "", **changes})  # type: ignore[return-value]


def test_everything_but_the_dropped_layers_is_copied(teacher):
    path, state = teacher
    cfg = config(path)
    student = StudentCtc.build_model(cfg, task()).w2v_encoder.state_dict()
    for name, tensor in student.items():
        source = name.replace("encoder.layers.1.", "encoder.layers.2.")  # every_k of 4 keeps 0 and 2
        assert torch.equal(tensor, state[source]), name
    assert any("pos_conv" in name for name in student)
    assert cfg.w2v_args.model.encoder_layers == 2


def test_a_saved_student_needs_no_initial_checkpoint(teacher):
    path, _ = teacher
    cfg = config(path)
    first = StudentCtc.build_model(cfg, task())
    path.unlink()
    again = StudentCtc.build_model(cfg, task())
    again.load_state_dict(first.state_dict())
    audio = torch.randn(1, 8000)
    assert torch.equal(again.eval()(audio)["encoder_out"], first.eval()(audio)["encoder_out"])


def test_masks_are_at_work_in_training_alone_and_follow_the_seed(teacher):
    path, _ = teacher
    model = StudentCtc.build_model(config(path, apply_mask=True, mask_prob=0.5, mask_channel_prob=0.2), task())
    audio = torch.randn(2, 16000)
    padding = torch.zeros(2, 16000, dtype=torch.bool)
    padding[1, 9000:] = True

    def output(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return model(audio, padding)["encoder_out"].detach()

    assert torch.equal(output(1), output(1))
    assert not torch.equal(output(1), output(2))
    model.eval()
    assert torch.equal(output(1), output(2))


def test_padding_mask_and_probabilities_are_stock(teacher):
    path, _ = teacher
    model = StudentCtc.build_model(config(path), task()).eval()
    padding = torch.zeros(2, 16000, dtype=torch.bool)
    padding[1, 9000:] = True
    out = model(torch.randn(2, 16000), padding)
    frames = model.w2v_encoder.architecture.frames(9000)
    assert (~out["padding_mask"]).sum(1).tolist() == [out["encoder_out"].shape[0], frames]
    probabilities = model.get_normalized_probs(out, log_probs=False)
    assert (probabilities[frames:, 1, 0] == 1).all()  # stock: padded frames are blank
    assert model(torch.randn(2, 16000), torch.zeros(2, 16000, dtype=torch.bool))["padding_mask"] is None


@pytest.mark.parametrize(
    ("changes", "of_task", "message"),
    [
        ({"init_checkpoint": ""}, {}, "model.init_checkpoint is empty"),
        ({"encoder_layers": 5}, {}, "encoder_layers is 5; it must be from 1 to 4"),
        ({}, {"symbols": LETTERS[::-1]}, "its dictionary differs .*not the same ones"),
        ({}, {"symbols": LETTERS[1:]}, "its dictionary differs .*32 units and 31"),
        ({"normalize": False}, {"normalize": False}, "trained with normalize=True; task.normalize is False"),
    ],
)
def test_what_does_not_fit_is_named(teacher, changes, of_task, message):
    path, _ = teacher
    with pytest.raises(InputError, match=message):
        StudentCtc.build_model(config(path, **changes), task(**of_task))
