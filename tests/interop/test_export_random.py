"""Random models as model files and as stock fairseq checkpoints."""

import dataclasses
from pathlib import Path

import pytest
import torch

from w2v_compress.data.units import Units
from w2v_compress.errors import InputError
from w2v_compress.interop.fairseq_checkpoint import export_random, read_checkpoint
from w2v_compress.model_file.storage import read_model
from w2v_compress.model_file.tensor_file import read_header
from w2v_compress.nn import architecture
from w2v_compress.nn.architecture import Architecture
from w2v_compress.runtime.recognizer import Recognizer

BASE = Architecture(
    conv_layers=((16, 10, 5), *[(16, 3, 2)] * 4, *[(16, 2, 2)] * 2),
    encoder_layers=2,
    encoder_embed_dim=32,
    encoder_ffn_embed_dim=64,
    encoder_attention_heads=2,
    conv_pos=16,
    conv_pos_groups=4,
)
LARGE = dataclasses.replace(BASE, extractor_mode="layer_norm", layer_norm_first=True, conv_bias=True)


def test_both_formats_of_a_sew_model_have_its_squeeze_factor_as_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(architecture.ARCHITECTURES, "sew", dataclasses.replace(BASE, learned_upsampling=(2,)))
    for name in ("sew.pt", "sew.safetensors"):
        export_random("sew", tmp_path / name)
    header = read_header(tmp_path / "sew.safetensors")
    assert str(header.point) == "2,1,1"
    assert read_checkpoint(tmp_path / "sew.pt").model.header == header


def test_random_models_of_a_named_architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(architecture.ARCHITECTURES, "small", BASE)
    paths = [tmp_path / f"{number}.safetensors" for number in range(3)]
    for path, seed in zip(paths, (1, 1, 2), strict=True):
        export_random("small", path, seed)
    assert paths[0].read_bytes() == paths[1].read_bytes() != paths[2].read_bytes()
    assert Recognizer.load(paths[0]).emissions(torch.randn(16_000), 16_000).shape == (49, 32)
    with pytest.raises(InputError, match="architecture 'huge' is not known"):
        export_random("huge", tmp_path / "huge.safetensors")


@pytest.mark.parametrize("shape", [BASE, LARGE], ids=["base", "large"])
def test_stock_fairseq_loads_a_random_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: Architecture
) -> None:
    from fairseq.checkpoint_utils import load_model_ensemble_and_task

    monkeypatch.setitem(architecture.ARCHITECTURES, "small", shape)
    path, model_file = tmp_path / "small.pt", tmp_path / "small.safetensors"
    for out in (path, model_file):
        export_random("small", out, seed=1)
    converted, expected = read_checkpoint(path).model, read_model(model_file)
    assert converted.header == expected.header
    assert converted.header.normalize == (shape is LARGE)
    assert converted.state.keys() == expected.state.keys()
    assert all(torch.equal(tensor, expected.state[name]) for name, tensor in converted.state.items())

    torch.load(path, weights_only=True)  # without an allow-list: the file holds plain values and tensors only
    (tmp_path / "data").mkdir()
    Units.letters().write_dictionary(tmp_path / "data" / "dict.ltr.txt")
    (model,), _, task = load_model_ensemble_and_task([str(path)], arg_overrides={"data": str(tmp_path / "data")})
    assert task.cfg.normalize == (shape is LARGE)
    torch.nn.init.normal_(model.w2v_encoder.proj.weight, std=0.2)
    converted.state["proj.weight"] = model.w2v_encoder.proj.weight.detach()
    audio = torch.randn(1, 12345)
    with torch.inference_mode():
        logits = model.eval()(source=audio, padding_mask=None)["encoder_out"].transpose(0, 1)
        torch.testing.assert_close(converted.build()(audio)[0], logits, rtol=0, atol=1e-5)
    assert logits.std() > 0.1


@pytest.mark.parametrize("name", ["large.onnx", "large", "large.pt.gz"])
def test_other_suffixes_are_rejected(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=rf"{name}: the suffix selects the format; it must be \.safetensors, or \.pt"):
        export_random("large", tmp_path / name)
    assert not list(tmp_path.iterdir())
