"""`student_ctc`: initial weights, masking, and invalid settings."""

import dataclasses
from argparse import Namespace
from types import SimpleNamespace

import pytest
import torch
from fairseq.data import Dictionary
from omegaconf import OmegaConf

import w2v_compress.models  # noqa: F401  (patches fairseq and registers)
from w2v_compress.compat import load_checkpoint
from w2v_compress.errors import InputError
from w2v_compress.model_file.storage import quantize_file, read_model, write_model
from w2v_compress.models.student_ctc import StudentCtc, StudentCtcConfig
from w2v_compress.nn.compression import CompressionPoint

LETTERS = "|ETAONIHSRDLUMWCFGYPBVK'XJQZ"


def task(symbols: str = LETTERS, normalize: bool = True) -> SimpleNamespace:
    dictionary = Dictionary()
    for symbol in symbols:
        dictionary.add_symbol(symbol)
    return SimpleNamespace(target_dictionary=dictionary, cfg=SimpleNamespace(normalize=normalize))


@pytest.fixture
def teacher(tmp_path, tiny_model):
    """A stock checkpoint of four layers and its tensors."""
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
        source = name.replace("encoder.layers.1.", "encoder.layers.2.")  # every_k copies layers 0 and 2 of 4
        assert torch.equal(tensor, state[source]), name
    assert any("pos_conv" in name for name in student)
    assert cfg.w2v_args.model.encoder_layers == 2


def test_layers_can_be_listed(teacher):
    path, state = teacher
    student = StudentCtc.build_model(config(path, encoder_layers=0, layers=[3, 0, 2]), task())
    ours = student.w2v_encoder.state_dict()
    assert student.w2v_encoder.architecture.encoder_layers == 3
    for index, layer in enumerate((3, 0, 2)):
        name = "w2v_model.encoder.layers.{}.fc1.weight"
        assert torch.equal(ours[name.format(index)], state[name.format(layer)])


def test_centred_positions_change_squeezed_points_only(teacher):
    path, _ = teacher
    first = StudentCtc.build_model(config(path), task()).eval()
    centred = StudentCtc.build_model(config(path, centered_positions=True), task()).eval()
    audio = torch.randn(2, 5000)
    for squeeze, same in ((1, True), (2, True), (3, False), (4, False)):
        point = CompressionPoint(squeeze)
        assert torch.equal(*(model(audio, point=point)["encoder_out"] for model in (first, centred))) == same
    assert centred.w2v_encoder.architecture.centered_positions


def test_learned_upsampling_starts_as_repetition(teacher):
    path, _ = teacher
    repeating = StudentCtc.build_model(config(path), task()).eval()
    cfg = config(path, learned_upsampling=[2, 4])
    student = StudentCtc.build_model(cfg, task()).eval()
    audio = torch.randn(2, 5000)
    for squeeze in (1, 2, 4):
        point = CompressionPoint(squeeze, 1, 1)
        expected = repeating(audio, point=point)["encoder_out"]
        torch.testing.assert_close(student(audio, point=point)["encoder_out"], expected)
    with pytest.raises(InputError, match="learned"):
        student(audio, point=CompressionPoint(3, 1, 1))
    again = StudentCtc.build_model(cfg, task())  # from the w2v_args, as from a checkpoint
    again.load_state_dict(student.state_dict())
    assert again.w2v_encoder.architecture == student.w2v_encoder.architecture


def differing(path: object, state: dict[str, torch.Tensor], **changes: object) -> set[str]:
    """Return the names of tensors in which a student of all four layers differs from its initial checkpoint."""
    student = StudentCtc.build_model(config(path, encoder_layers=4, **changes), task()).w2v_encoder.state_dict()
    assert student.keys() == state.keys()
    return {
        name
        for name, tensor in student.items()
        if tensor.shape != state[name].shape or not torch.equal(tensor, state[name])
    }


def test_released_code_initializes_positions_and_the_final_norm_at_random(teacher):
    path, state = teacher
    state["w2v_model.encoder.layer_norm.weight"] += 1  # differs from a new norm
    checkpoint = load_checkpoint(path)
    torch.save(checkpoint | {"model": {f"w2v_encoder.{name}": tensor for name, tensor in state.items()}}, path)
    assert differing(path, state) == set()
    changed = differing(path, state, released_code_init=True)
    positional = {f"w2v_model.encoder.pos_conv.0.{name}" for name in ("weight_g", "weight_v")}
    assert changed == positional | {"w2v_model.encoder.layer_norm.weight"}  # biases are 0 either way


def test_a_narrower_student_copies_matching_tensors(teacher):
    path, state = teacher
    feed_forward = differing(path, state, encoder_ffn_embed_dim=48)
    assert feed_forward == {
        name for name in state if ".encoder.layers." in name and not name.endswith(("norm.weight", "bias"))
    } | {f"w2v_model.encoder.layers.{layer}.fc1.bias" for layer in range(4)}
    narrow = StudentCtc.build_model(
        config(path, encoder_embed_dim=16, encoder_ffn_embed_dim=24, encoder_attention_heads=4), task()
    )
    architecture = narrow.w2v_encoder.architecture
    assert (architecture.encoder_embed_dim, architecture.encoder_ffn_embed_dim) == (16, 24)
    assert (architecture.encoder_attention_heads, architecture.encoder_layers) == (4, 2)
    for name, tensor in narrow.w2v_encoder.w2v_model.feature_extractor.state_dict().items():
        assert torch.equal(tensor, state[f"w2v_model.feature_extractor.{name}"])
    assert narrow(torch.randn(1, 8000), return_hidden=True)["hidden"][1].shape[-1] == 16


def test_a_model_file_can_be_the_initial_checkpoint(tiny_path):
    cfg = config(tiny_path, encoder_layers=1)
    student = StudentCtc.build_model(cfg, task()).w2v_encoder.state_dict()
    state = read_model(tiny_path).state
    assert torch.equal(student["proj.weight"], state["proj.weight"])


def test_a_checkpoint_of_2020_can_be_the_initial_checkpoint(teacher, tmp_path, tiny_model):
    """In 2020, fairseq stored flat namespaces of arguments, and the dictionary beside the checkpoint."""
    _, state = teacher
    settings = tiny_model(encoder_layers=4).header.architecture.to_fairseq()
    inner = Namespace(**settings | {"arch": "wav2vec2", "task": "audio_pretraining", "normalize": True})
    arguments = {"arch": "wav2vec_ctc", "task": "audio_pretraining", "labels": "ltr", "normalize": True}
    stored = {f"w2v_encoder.{name}": tensor for name, tensor in state.items()}
    path = tmp_path / "2020.pt"
    torch.save(
        {"args": Namespace(w2v_args=inner, w2v_path="/gone.pt", data="/gone", **arguments), "model": stored}, path
    )
    with open(tmp_path / "dict.ltr.txt", "w") as file:
        file.writelines(f"{symbol} 1\n" for symbol in LETTERS)
    student = StudentCtc.build_model(config(path), task()).w2v_encoder
    assert student.architecture.encoder_layers == 2
    assert torch.equal(student.proj.weight, state["proj.weight"])


def test_a_quantized_initial_model_is_rejected(tiny_path, tmp_path):
    quantize_file(tiny_path, tmp_path / "int8.safetensors")
    with pytest.raises(InputError, match=r"int8\.safetensors: is quantized; training needs the floating-point model"):
        StudentCtc.build_model(config(tmp_path / "int8.safetensors"), task())


def test_layers_have_the_pooling_factors_of_the_teachers_layers(tmp_path, tiny_model):
    model = tiny_model(encoder_layers=4)
    point = CompressionPoint(2, (1, 1, 2, 4), (2, 1, 4, 1))
    header = dataclasses.replace(model.header, point=point)
    write_model(tmp_path / "teacher.safetensors", dataclasses.replace(model, header=header))
    for settings, expected in (({}, "2,1:2,2:4"), ({"encoder_layers": 0, "layers": [3, 0, 2]}, "2,4:1:2,1:2:4")):
        cfg = config(tmp_path / "teacher.safetensors", **settings)
        student = StudentCtc.build_model(cfg, task())
        assert str(student.point) == expected == cfg.w2v_args.model.point
        assert student.eval()(torch.randn(1, 8000))["encoder_out"].isfinite().all()


def test_a_saved_student_needs_no_initial_checkpoint(teacher):
    path, _ = teacher
    cfg = config(path)
    first = StudentCtc.build_model(cfg, task())
    path.unlink()
    again = StudentCtc.build_model(cfg, task())
    again.load_state_dict(first.state_dict())
    audio = torch.randn(1, 8000)
    assert torch.equal(again.eval()(audio)["encoder_out"], first.eval()(audio)["encoder_out"])


def test_masks_are_seeded_and_only_in_training(teacher):
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


def test_a_narrow_model_masks_at_least_one_span_of_channels(teacher):
    path, _ = teacher
    masked = config(path, apply_mask=True, mask_prob=0.0, mask_channel_prob=0.05, mask_channel_length=8)
    model = StudentCtc.build_model(masked, task())
    audio = torch.randn(4, 8000)
    unmasked = model.eval()(audio)["encoder_out"]
    model.train()
    for _ in range(20):
        changed = (model(audio)["encoder_out"] - unmasked).abs().amax((0, 2)) > 1e-3
        assert changed.all()


def test_padding_mask_and_probabilities_equal_stock(teacher):
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
    ("changes", "task_settings", "message"),
    [
        ({"init_checkpoint": ""}, {}, "model.init_checkpoint is empty"),
        ({"encoder_layers": 5}, {}, "encoder_layers is 5; it must be from 1 to 4"),
        ({"layers": [0, 4], "encoder_layers": 0}, {}, "layers has 4; the layers of the initial checkpoint are 0 to 3"),
        ({"layers": [0, 1, 2]}, {}, "model.encoder_layers is 2, but model.layers has 3"),
        ({"encoder_attention_heads": 5}, {}, "encoder_attention_heads"),
        ({}, {"symbols": LETTERS[::-1]}, "its dictionary differs .*not the same ones"),
        ({}, {"symbols": LETTERS[1:]}, "its dictionary differs .*32 units and 31"),
        ({"normalize": False}, {"normalize": False}, "trained with normalize=True; task.normalize is False"),
    ],
)
def test_invalid_settings_are_rejected(teacher, changes, task_settings, message):
    path, _ = teacher
    with pytest.raises(InputError, match=message):
        StudentCtc.build_model(config(path, **changes), task(**task_settings))
