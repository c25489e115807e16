"""Random models saved by transformers, compared with the same models imported."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from w2v_compress.errors import InputError
from w2v_compress.interop.transformers_export import load_package
from w2v_compress.interop.transformers_import import ABSENT_LOGIT, read_transformers
from w2v_compress.model_file.storage import ModelFile
from w2v_compress.runtime.recognizer import Recognizer

transformers = load_package()
Run = Callable[..., tuple[int, str, str]]
VOCABULARY = ["e", "t", "|", "a", "[UNK]", "'", "ß", "[PAD]"]
"""Vocabulary of a model fine-tuned with transformers: the blank last, no `<s>` and no `</s>`."""
TINY: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "conv_dim": (16, 24, 24),
    "conv_kernel": (10, 3, 2),
    "conv_stride": (5, 2, 2),
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "vocab_size": len(VOCABULARY),
    "pad_token_id": 7,
    "initializer_range": 0.3,
}
LARGE_LIKE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}


def save(folder: Path, **changes: Any) -> Any:
    """Save a random model and its processor with transformers; return the model."""
    torch.manual_seed(5)
    model = transformers.Wav2Vec2ForCTC(transformers.Wav2Vec2Config(**TINY | changes)).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:  # biases and norms, which start as zeros and ones
            parameter.data += 0.1 * torch.randn(len(parameter))
    torch.nn.init.normal_(model.lm_head.weight)
    model.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(VOCABULARY)}))
    tokenizer = transformers.Wav2Vec2CTCTokenizer(
        folder / "vocab.json", bos_token=None, eos_token=None, unk_token="[UNK]", pad_token="[PAD]"
    )
    layer_norm = model.config.feat_extract_norm == "layer"
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=layer_norm, return_attention_mask=layer_norm)
    transformers.Wav2Vec2Processor(extractor, tokenizer).save_pretrained(folder)
    extractor.save_pretrained(folder)  # transformers 4 saves this file, transformers 5 does not
    return model


def change_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_tensor(path: Path, name: str, tensor: torch.Tensor) -> None:
    save_file(load_file(path) | {name: tensor}, path)


def in_their_order(ours: ModelFile) -> list[int]:
    """Return our unit numbers in the order of `VOCABULARY`."""
    names = ["<unk>" if token == "[UNK]" else "<s>" if token == "[PAD]" else token for token in VOCABULARY]
    return [ours.header.units.symbols.index(name) for name in names]


@pytest.mark.parametrize("changes", [{}, LARGE_LIKE | {"hidden_act": "relu"}], ids=["base", "large"])
def test_equal_logits(changes: dict[str, Any], tmp_path: Path) -> None:
    """Padded batches use the attention mask if the model has one; otherwise both networks treat zeros as audio."""
    theirs, ours = save(tmp_path, **changes), read_transformers(tmp_path)
    network, order = ours.build(), in_their_order(ours)
    lengths = torch.tensor([4000, 2500, 45])
    audio = torch.randn(3, 4000, generator=torch.Generator().manual_seed(1))
    valid = torch.arange(4000) < lengths.unsqueeze(1)
    masked = bool(changes)
    with torch.inference_mode():
        for row, length in zip(audio, lengths, strict=True):
            expected = theirs(row[None, :length]).logits
            logits, _ = network(row[None, :length])
            torch.testing.assert_close(logits[..., order], expected, atol=1e-4, rtol=1e-5)
        logits, frames = network(audio * valid, lengths if masked else None)
        expected = theirs(audio * valid, attention_mask=valid.long() if masked else None).logits
    for actual, other, count in zip(logits, expected, frames, strict=True):
        torch.testing.assert_close(actual[:count, order], other[:count], atol=1e-4, rtol=1e-5)
    absent = [number for number in range(logits.shape[-1]) if number not in order]
    assert [ours.header.units.symbols[number] for number in absent] == ["<pad>", "</s>"]
    assert (logits[..., absent] == ABSENT_LOGIT).all()


def test_equal_text(run: Run, tmp_path: Path) -> None:
    folder, out = tmp_path / "folder", tmp_path / "model.safetensors"
    theirs = save(folder, **LARGE_LIKE)
    audio = np.random.default_rng(0).normal(size=20_000).astype(np.float32)
    processor = transformers.Wav2Vec2Processor.from_pretrained(folder)
    inputs = processor(audio, sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        theirs.lm_head.bias -= theirs(**inputs).logits.mean((0, 1))  # all letters become equally probable
        theirs.save_pretrained(folder)
        text = processor.batch_decode(theirs(**inputs).logits.argmax(-1))[0].replace("[UNK]", "")
    assert set(text) == set("etaß' ")
    status, printed, err = run("import", folder, out)
    assert (status, err) == (0, "")
    assert printed == f"{out}: {out.stat().st_size / 1e6:.2f} MB, 10 units from {folder / 'vocab.json'}\n"
    assert Recognizer.load(out, precision="fp32").transcribe(audio, 16_000) == " ".join(text.split())


def test_old_names_half_precision_and_the_processors_file(tmp_path: Path) -> None:
    save(tmp_path)
    expected = read_transformers(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    old = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): tensor.half()
        for name, tensor in tensors.items()
    }
    assert old.keys() != tensors.keys()
    save_file(old, tmp_path / "model.safetensors")
    (tmp_path / "preprocessor_config.json").unlink()
    assert "feature_extractor" in json.loads((tmp_path / "processor_config.json").read_text())
    actual = read_transformers(tmp_path)
    assert actual.header == expected.header
    for name, tensor in actual.state.items():
        assert torch.equal(tensor, expected.state[name].half())


def test_tokens_are_converted_to_our_spelling(tmp_path: Path) -> None:
    save(tmp_path)
    vocabulary = tmp_path / "vocab.json"
    vocabulary.write_text(vocabulary.read_text().replace("|", "_").replace("e", "E"))
    change_json(tmp_path / "tokenizer_config.json", word_delimiter_token="_", do_lower_case=True)
    symbols = read_transformers(tmp_path).header.units.symbols
    assert symbols == ("<s>", "<pad>", "</s>", "<unk>", "e", "t", "|", "a", "'", "ß")


def test_a_projection_between_equal_widths_must_be_the_identity(tmp_path: Path) -> None:
    model = save(tmp_path, hidden_size=24, num_attention_heads=2)
    with pytest.raises(InputError, match="projects between equal widths"):
        read_transformers(tmp_path)
    weights = tmp_path / "model.safetensors"
    change_tensor(weights, "wav2vec2.feature_projection.projection.weight", torch.zeros(10**7, 1))
    with pytest.raises(InputError, match="projects between equal widths"):  # without an identity of that size
        read_transformers(tmp_path)
    torch.nn.init.eye_(model.wav2vec2.feature_projection.projection.weight)
    torch.nn.init.zeros_(model.wav2vec2.feature_projection.projection.bias)
    model.save_pretrained(tmp_path)
    ours, audio = read_transformers(tmp_path), torch.randn(1, 3000)
    with torch.inference_mode():
        logits = ours.build()(audio)[0][..., in_their_order(ours)]
        torch.testing.assert_close(logits, model(audio).logits, atol=1e-4, rtol=1e-5)


def test_invalid_folders_print_one_line_that_names_the_file(run: Run, tmp_path: Path) -> None:
    folder, out = tmp_path / "folder", tmp_path / "model.safetensors"
    save(folder)
    original = {file: file.read_bytes() for file in folder.iterdir()}
    config, vocabulary, tokenizer = (folder / name for name in ("config.json", "vocab.json", "tokenizer_config.json"))
    extractor = folder / "preprocessor_config.json"
    for damage, message in (
        (lambda: change_json(config, model_type="wav2vec2-bert"), f"{config}: `model_type` is 'wav2vec2-bert'; only"),
        (lambda: change_json(config, add_adapter=True), f"{config}: `add_adapter` is True; only False"),
        (lambda: change_json(config, layer_norm_eps=1e-6), f"{config}: `layer_norm_eps` is 1e-06; only"),
        (lambda: change_json(config, hidden_act="silu"), f"{config}: architecture: `activation_fn` is 'silu'"),
        (lambda: change_json(config, conv_dim=[16]), f"{config}: `conv_dim`, `conv_kernel`, `conv_stride` must have"),
        (lambda: change_json(config, feat_extract_norm="batch"), f"{config}: `feat_extract_norm` is 'batch'; it must"),
        (lambda: change_json(config, num_hidden_layers=3), f"{folder / 'model.safetensors'}: the tensor `wav2vec2.enc"),
        (lambda: change_json(config, num_hidden_layers=1), f"{folder / 'model.safetensors'}: the tensor `wav2vec2.enc"),
        (
            lambda: change_json(config, num_hidden_layers=10**9),
            f"{folder / 'model.safetensors'}: architecture: `encoder_layers` is 1000000000 layers, too many for a file",
        ),
        (
            lambda: change_json(config, intermediate_size=10**30),
            f"{folder / 'model.safetensors'}: the tensor `w2v_model.encoder.layers.0.fc1.weight` has shape",
        ),
        (lambda: change_json(config, hidden_size=64), f"{folder / 'model.safetensors'}: the tensor `"),
        (lambda: config.write_text("{"), f"{config}: is not JSON"),
        (lambda: vocabulary.unlink(), f"{vocabulary}: cannot be read: No such file"),
        (lambda: change_json(vocabulary, e=20), f"{vocabulary}: has no token 0; the CTC head has 8 units"),
        (lambda: change_json(vocabulary, deu={"a": 1}), f"{vocabulary}: must be a JSON object of tokens"),
        (
            lambda: change_json(tokenizer, pad_token="<blank>"),
            f"{vocabulary}: has no '<blank>', which is the CTC blank",
        ),
        (
            lambda: change_json(tokenizer, pad_token=["[PAD]"]),
            f"{vocabulary}: has no ['[PAD]'], which is the CTC blank",
        ),
        (lambda: vocabulary.write_text(vocabulary.read_text().replace("|", "_")), f"{vocabulary}: units: letters need"),
        (
            lambda: change_json(tokenizer, tokenizer_class="Wav2Vec2PhonemeCTCTokenizer"),
            f"{tokenizer}: `tokenizer_class` is 'Wav2Vec2PhonemeCTCTokenizer'",
        ),
        (lambda: change_json(extractor, sampling_rate=8000), f"{extractor}: `sampling_rate` is 8000; it must be 16000"),
        (lambda: change_json(extractor, do_normalize=None), f"{extractor}: `do_normalize` is None; it must be"),
        (
            lambda: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
            f"{folder / 'pytorch_model.bin'}: not read, because a pickle can run code; it must be model.safetensors.",
        ),
        (
            lambda: change_tensor(folder / "model.safetensors", "lm_head.weight", torch.zeros(3, 32)),
            f"{folder / 'model.safetensors'}: `lm_head.weight` must have two dimensions and 8 rows",
        ),
        (lambda: (folder / "model.safetensors").unlink(), f"{folder / 'model.safetensors'}: no such file"),
        (lambda: (folder / "model.safetensors").write_bytes(b"x" * 50), f"{folder / 'model.safetensors'}: not a saf"),
    ):
        for file in folder.iterdir():
            file.unlink()
        for file, content in original.items():
            file.write_bytes(content)
        damage()
        status, printed, err = run("import", folder, out)
        assert (status, printed, err.count("\n")) == (1, "", 1), err
        assert err.startswith(f"w2v-compress: {message}"), err
    assert not out.exists()
    assert run("import", tmp_path / "absent", out)[2] == f"w2v-compress: {tmp_path / 'absent'}: no such folder\n"


def test_models_that_are_not_fine_tuned_or_not_wav2vec2_are_rejected(tmp_path: Path) -> None:
    save(tmp_path)
    transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**TINY)).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"`lm_head\.bias`, the CTC head, is missing"):
        read_transformers(tmp_path)
    transformers.HubertForCTC(transformers.HubertConfig(**TINY)).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"config\.json: `model_type` is 'hubert'; only 'wav2vec2' is supported"):
        read_transformers(tmp_path)
