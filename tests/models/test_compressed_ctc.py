"""`compressed_ctc`: fine-tuning of checkpoints of stock fairseq and of this package, against `wav2vec_ctc`."""

import dataclasses
import logging
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq.data import Dictionary
from fairseq.models import ARCH_MODEL_REGISTRY
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config, Wav2Vec2Model
from fairseq.models.wav2vec.wav2vec2_asr import Wav2Vec2CtcConfig, Wav2VecCtc
from omegaconf import OmegaConf

import w2v_compress.models  # noqa: F401  (patches fairseq and registers)
from w2v_compress.data.units import LETTERS
from w2v_compress.errors import InputError
from w2v_compress.interop.fairseq_checkpoint import read_checkpoint
from w2v_compress.model_file.storage import read_model, write_model
from w2v_compress.models.compressed_ctc import CompressedCtc, CompressedCtcConfig
from w2v_compress.nn.compression import CompressionPoint

TINY = {
    "conv_feature_layers": "[(24, 10, 5)] + [(24, 3, 2)] * 2",
    "extractor_mode": "layer_norm",
    "encoder_layers": 2,
    "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 48,
    "encoder_attention_heads": 4,
    "conv_pos": 8,
    "conv_pos_groups": 4,
    "quantize_targets": True,
    "latent_vars": 8,
}
MASKS = {"apply_mask": True, "mask_prob": 0.4, "mask_length": 3, "mask_channel_prob": 0.6, "mask_channel_length": 4}


def make_task(symbols: Any = LETTERS, normalize: bool = False) -> SimpleNamespace:
    dictionary = Dictionary()
    for symbol in symbols:
        dictionary.add_symbol(symbol)
    return SimpleNamespace(target_dictionary=dictionary, cfg=SimpleNamespace(normalize=normalize))


def build(path: Path, task: SimpleNamespace | None = None, **settings: Any) -> CompressedCtc:
    torch.manual_seed(4)
    cfg = OmegaConf.structured(CompressedCtcConfig(w2v_path=str(path), **settings))
    cfg = OmegaConf.merge(cfg, {"normalize": settings.get("normalize", False), "data": ""})
    return CompressedCtc.build_model(cfg, task or make_task())  # type: ignore[return-value]


def batch() -> dict[str, torch.Tensor]:
    torch.manual_seed(9)
    padding = torch.arange(3000) >= torch.tensor([[3000], [1703], [820]])
    return {"source": torch.randn(3, 3000).masked_fill(padding, 0), "padding_mask": padding}


@pytest.fixture
def pretrained(tmp_path: Path) -> Callable[..., Path]:
    """Return pretrained(name, **settings), which writes a pre-training checkpoint and returns its path."""

    def write(name: str = "wav2vec2", **settings: Any) -> Path:
        torch.manual_seed(2)
        if name == "wav2vec2":
            cfg = OmegaConf.structured(Wav2Vec2Config(**TINY | settings))
            model = Wav2Vec2Model(cfg)
        else:
            registered = ARCH_MODEL_REGISTRY[name]
            cfg = OmegaConf.structured(registered.__dataclass(**TINY | settings))
            model = registered.build_model(cfg)
        values: Any = OmegaConf.to_container(cfg, enum_to_str=True)
        task = {"_name": "audio_pretraining", "data": "/gone", "normalize": False}
        path = tmp_path / f"{name}.pt"
        saved = {"cfg": {"model": values | {"_name": name}, "task": task}, "model": model.state_dict()}
        history = {"optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 0}
        torch.save(saved | {"optimizer_history": [history], "extra_state": {"epoch": 0}}, path)
        return path

    return write


@pytest.fixture
def stock(pretrained: Callable[..., Path]) -> Callable[..., Wav2VecCtc]:
    """Return stock(path, **settings), which builds stock `wav2vec_ctc` from the pre-trained checkpoint at `path`."""

    def make(path: Path, **settings: Any) -> Wav2VecCtc:
        cfg = OmegaConf.structured(Wav2Vec2CtcConfig(w2v_path=str(path), **settings))
        cfg = OmegaConf.merge(cfg, {"normalize": False, "data": "", "ddp_backend": "legacy_ddp"})
        model = Wav2VecCtc.build_model(cfg, make_task())
        torch.nn.init.normal_(model.w2v_encoder.proj.weight, std=0.5)
        return model

    return make


def convert_to_2020(path: Path) -> None:
    """Rewrite a pre-training checkpoint in the format before hydra."""
    checkpoint = torch.load(path)
    settings = checkpoint["cfg"]["model"]
    arguments = Namespace(**settings | {"arch": "wav2vec2", "task": "audio_pretraining", "normalize": False})
    del arguments._name
    torch.save({"args": arguments, "model": checkpoint["model"]}, path)


@pytest.mark.parametrize("year", [2020, 2024])
@pytest.mark.parametrize("training", [False, True])
def test_fine_tuning_a_stock_checkpoint_equals_stock(pretrained, stock, year: int, training: bool) -> None:
    """Logits and gradients are equal, in training with the same masks."""
    path = pretrained(dropout=0.0, attention_dropout=0.0)
    expected = stock(path, feature_grad_mult=0.1, **MASKS).train(training)
    if year == 2020:
        convert_to_2020(path)
    model = build(path, feature_grad_mult=0.1, **MASKS).train(training)
    assert str(model.point) == "1,1,1"
    stored = expected.w2v_encoder.state_dict()
    ours = model.w2v_encoder.state_dict()
    assert stored.keys() == ours.keys()
    assert all(torch.equal(ours[name], stored[name]) for name in ours if not name.startswith("proj"))
    model.load_state_dict(expected.state_dict())
    results = []
    for each in (expected, model):
        torch.manual_seed(6)
        out = each(**batch())
        valid = ~out["padding_mask"].T
        (out["encoder_out"][valid].square().mean()).backward()
        results.append((out["encoder_out"][valid], dict(each.named_parameters())))
    assert results[0][0].std() > 0.1
    torch.testing.assert_close(results[1][0], results[0][0], rtol=0, atol=1e-5)
    for name, parameter in results[0][1].items():
        gradient = results[1][1][name].grad
        assert (gradient is None) == (parameter.grad is None), name
        if training and gradient is not None:  # in eval mode the gradients of our feature extractor are not scaled
            scale = max(1.0, parameter.grad.abs().max().item())
            torch.testing.assert_close(gradient, parameter.grad, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize(
    ("name", "settings", "point"),
    [
        ("sew", {}, "2,1,1"),
        ("stochastic_sew", {"point": "3,2,1"}, "3,2,1"),
        ("stochastic_sew", {"learned_upsampling": [2, 3], "point": "3,1,1", "mlp_heads": True}, "3,1,1"),
        ("pooled_transformer", {"point": "1,1:2,2:1"}, "1,1:2,2:1"),
    ],
)
def test_the_default_point_is_that_of_the_pretrained_model(
    pretrained, stock, tmp_path: Path, name: str, settings: dict[str, Any], point: str
) -> None:
    """Stock `wav2vec_ctc` runs at the same point, and the checkpoints of both give the same recognizer."""
    path = pretrained(name, **settings)
    over = stock(path).eval()
    model = build(path).eval()
    assert str(model.point) == point
    model.load_state_dict(over.state_dict())
    inputs = batch()
    expected = over(**inputs)["encoder_out"].detach()
    torch.testing.assert_close(model(**inputs)["encoder_out"], expected, rtol=0, atol=1e-5)
    path.unlink()
    for registered, each in (("wav2vec_ctc", over), ("compressed_ctc", model)):
        values: Any = OmegaConf.to_container(each.cfg, resolve=True, enum_to_str=True)
        task = {"_name": "audio_finetuning", "labels": "ltr", "normalize": False}
        cfg = {"model": values | {"_name": registered}, "task": task}
        torch.save({"cfg": cfg, "model": each.state_dict()}, tmp_path / "tuned.pt")
        header = read_checkpoint(tmp_path / "tuned.pt").model.header
        assert (str(header.point), header.space.all_points()) == (point, [header.point])
        network = read_checkpoint(tmp_path / "tuned.pt").model.build()
        logits, frames = network(inputs["source"], (~inputs["padding_mask"]).sum(1), header.point)
        for row, count in enumerate(frames):
            torch.testing.assert_close(logits[row, :count], expected[:count, row], rtol=0, atol=1e-5)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_recognizer_becomes_elastic(pretrained, stock, tmp_path: Path, caplog, suffix: str) -> None:
    """A fine-tuned model initializes the network and, for the same units, the head."""
    over = stock(pretrained())
    path = tmp_path / f"tuned{suffix}"
    values: Any = OmegaConf.to_container(over.cfg, resolve=True, enum_to_str=True)
    cfg = {"model": values | {"_name": "wav2vec_ctc"}, "task": {"_name": "audio_finetuning", "normalize": False}}
    torch.save({"cfg": cfg, "model": over.state_dict()}, tmp_path / "tuned.pt")
    if suffix == ".safetensors":
        write_model(path, read_checkpoint(tmp_path / "tuned.pt").model)
    state = over.w2v_encoder.state_dict()
    retrofitted = build(path).w2v_encoder.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in retrofitted.items())
    assert "head" not in caplog.text
    with caplog.at_level(logging.INFO):
        fresh = build(path, make_task("|ABC")).w2v_encoder
    assert f"{path}: a new CTC head, since it has other units" in caplog.text
    assert fresh.proj.weight.shape == (8, 32)
    assert all(
        torch.equal(tensor, retrofitted[name])
        for name, tensor in fresh.w2v_model.state_dict(prefix="w2v_model.").items()
    )


def test_a_new_head_is_logged_and_random(pretrained, caplog) -> None:
    with caplog.at_level(logging.INFO):
        model = build(pretrained())
    assert "a new CTC head, since it was not fine-tuned" in caplog.text
    assert model.w2v_encoder.proj.weight.std() > 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_point_trains_with_the_same_number_of_frames(pretrained, dtype: torch.dtype) -> None:
    model = build(pretrained(), feature_grad_mult=1.0, layerdrop=0.1, dropout=0.1, **MASKS).to(dtype).train()
    inputs = batch()
    inputs["source"] = inputs["source"].to(dtype)
    shapes = set()
    for point in ("1,1,1", "2,1,1", "3,2,1", "4,1:2,3:1"):
        model.zero_grad()
        out = model(**inputs, point=CompressionPoint.parse(point), return_hidden=True)
        shapes |= {out["encoder_out"].shape, *(state.transpose(0, 1).shape for state in out["hidden"])}
        logits = model.get_normalized_probs(out, log_probs=True)
        torch.nn.functional.ctc_loss(
            logits, torch.full((3, 2), 5), (~out["padding_mask"]).sum(1), torch.full((3,), 2), zero_infinity=True
        ).backward()
        assert model.w2v_encoder.w2v_model.feature_extractor.conv_layers[0].get_submodule("0").weight.grad is not None
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert len(shapes) == 1


@pytest.mark.parametrize("point", ["1,1,1", "2,2,2"])
@torch.no_grad()
def test_padding_does_not_change_the_logits(pretrained, point: str) -> None:
    model = build(pretrained(extractor_mode="default")).eval()
    inputs, at = batch(), CompressionPoint.parse(point)
    out = model(**inputs, point=at)
    for row, length in enumerate((~inputs["padding_mask"]).sum(1)):
        alone = model(inputs["source"][row : row + 1, :length], point=at)["encoder_out"][:, 0]
        torch.testing.assert_close(out["encoder_out"][: len(alone), row], alone, rtol=0, atol=1e-4)


def test_recomputed_activations_have_the_same_gradients(pretrained) -> None:
    gradients = []
    for checkpointed in (False, True):
        model = build(pretrained(), checkpoint_activations=checkpointed, dropout=0.2, attention_dropout=0.2).train()
        torch.manual_seed(7)
        model(**batch(), point=CompressionPoint(2, 2, 1))["encoder_out"].square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-5)


def test_autocast_computes_in_bf16_and_keeps_fp32_weights(pretrained) -> None:
    outputs, gradients = [], []
    for autocast in (False, True):
        model = build(pretrained(), autocast=autocast).train()
        out = model(**batch(), point=CompressionPoint(2, 2, 1))["encoder_out"]
        out.float().square().sum().backward()
        outputs.append(out)
        trained = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        assert all(gradient.dtype == torch.float32 for gradient in trained)
        gradients.append(torch.cat([gradient.flatten() for gradient in trained]))
    assert [out.dtype for out in outputs] == [torch.float32, torch.bfloat16]
    assert (outputs[1].float() - outputs[0]).norm() < 0.02 * outputs[0].norm()
    assert (gradients[1] - gradients[0]).norm() < 0.05 * gradients[0].norm()


def test_the_first_updates_can_train_only_the_head(pretrained) -> None:
    model = build(pretrained(), freeze_finetune_updates=2, feature_grad_mult=1.0).train()
    trained = {}
    for update in range(4):
        model.set_num_updates(update)
        model.zero_grad()
        model(**batch())["encoder_out"].square().sum().backward()
        trained[update] = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    head = {"w2v_encoder.proj.weight", "w2v_encoder.proj.bias"}
    assert trained[0] == trained[1] == head
    assert (
        trained[2] == trained[3] == {name for name, _ in model.named_parameters()} - {"w2v_encoder.w2v_model.mask_emb"}
    )


def test_a_saved_model_needs_no_initial_checkpoint_and_has_its_point(pretrained) -> None:
    path = pretrained("stochastic_sew", learned_upsampling=[2], point="2,1,1")
    first = build(path)
    path.unlink()
    again = CompressedCtc.build_model(first.cfg, make_task())
    again.load_state_dict(first.state_dict())
    assert str(again.point) == "2,1,1"
    inputs = batch()
    assert torch.equal(first.eval()(**inputs)["encoder_out"], again.eval()(**inputs)["encoder_out"])
    again.cfg.point = "1,1,1"
    assert str(CompressedCtc.build_model(again.cfg, make_task()).point) == "1,1,1"


@pytest.mark.parametrize(
    ("settings", "task_settings", "message"),
    [
        ({"normalize": True}, {"normalize": True}, "was trained with normalize=False; task.normalize is True"),
        ({"point": "3,1,1"}, {}, "model.point: .*learned to upsample for a squeeze of 2;"),
        ({"point": "2,1:2:1,1"}, {}, "model.point: .*`query_pool` has 3 factors"),
        ({"point": "fast"}, {}, "model.point: compression point 'fast' cannot be read"),
        ({"w2v_path": ""}, {}, "model.w2v_path is empty"),
        ({"w2v_path": "/gone.pt"}, {}, "/gone.pt: cannot be read"),
    ],
)
def test_invalid_settings_are_rejected(
    pretrained, settings: dict[str, Any], task_settings: dict[str, Any], message: str
) -> None:
    path = settings.pop("w2v_path", None)
    path = pretrained("sew") if path is None else path
    with pytest.raises(InputError, match=message):
        build(path, make_task(**task_settings), **settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["cfg"]["model"].update(_name="hubert"), r"the model is `hubert`; it must be one of wav2vec2, sew"),
        (lambda c: c["cfg"]["model"].update(quantize_input=True), "`quantize_input` is True"),
        (lambda c: c["model"].pop("mask_emb"), r"the tensor `w2v_model.mask_emb` is missing"),
        (lambda c: c["model"].update(wing=torch.zeros(1)), r"the tensor `w2v_model.wing` is unknown"),
        (lambda c: c["model"].update(mask_emb=torch.zeros(3)), r"the tensor `w2v_model.mask_emb` has shape"),
    ],
)
def test_invalid_pretrained_checkpoints_are_rejected(pretrained, change, message: str) -> None:
    path = pretrained()
    checkpoint = torch.load(path)
    change(checkpoint)
    torch.save(checkpoint, path)
    with pytest.raises(InputError, match=message) as caught:
        build(path)
    assert str(caught.value).count(str(path)) == 1


def test_a_student_is_elastic_too(tiny_path: Path) -> None:
    from w2v_compress.models.student_ctc import StudentCtc, StudentCtcConfig

    cfg = OmegaConf.structured(StudentCtcConfig(init_checkpoint=str(tiny_path), encoder_layers=1, point="2,1,1"))
    cfg = OmegaConf.merge(cfg, {"normalize": True, "data": ""})
    model = StudentCtc.build_model(cfg, make_task(normalize=True)).eval()
    audio = torch.randn(1, 12000)
    own = model(audio)["encoder_out"]
    at_points = [model(audio, point=CompressionPoint(squeeze))["encoder_out"] for squeeze in (1, 2, 3)]
    assert torch.equal(own, at_points[1])
    assert {out.shape for out in at_points} == {own.shape}
    elastic = dataclasses.replace(read_model(tiny_path).header, point=CompressionPoint(3))
    write_model(tiny_path.with_name("elastic.safetensors"), dataclasses.replace(read_model(tiny_path), header=elastic))
    cfg.init_checkpoint, cfg.point, cfg.w2v_args = str(tiny_path.with_name("elastic.safetensors")), "", None
    assert str(StudentCtc.build_model(cfg, make_task(normalize=True)).point) == "3,1,1"
