"""Checkpoints of current fairseq and of fairseq in 2020, compared with the models that fairseq built."""

import dataclasses
import os
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from w2v_compress.data.units import Units
from w2v_compress.errors import InputError
from w2v_compress.interop.fairseq_checkpoint import export_checkpoint, read_checkpoint
from w2v_compress.model_file.storage import ModelFile, read_model
from w2v_compress.model_file.tensor_file import read_header

CONV_LAYERS = "[(16, 10, 5)] + [(16, 3, 2)] * 4 + [(16,2,2)] * 2"
SIZES = {
    "encoder_layers": 2,
    "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 64,
    "encoder_attention_heads": 2,
    "conv_pos": 16,
    "conv_pos_groups": 4,
    "conv_feature_layers": CONV_LAYERS,
    "final_dim": 24,
    "quantize_targets": True,
}
MODES = {
    "base": SIZES,
    "large": SIZES | {"extractor_mode": "layer_norm", "layer_norm_first": True, "conv_bias": True},
}


@dataclasses.dataclass
class Stock:
    """A stock model built by fairseq, and its checkpoint as fairseq's trainer saves it."""

    model: Any
    checkpoint: dict[str, Any]
    dictionary: Any


@pytest.fixture
def stock(tmp_path: Path) -> Callable[..., Stock]:
    """stock(mode) builds `wav2vec_ctc` on `wav2vec2` with fairseq's own task and `build_model`."""

    def build(mode: str = "base", *, stored_dictionary: bool = True, **pretrained: Any) -> Stock:
        from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config
        from fairseq.models.wav2vec.wav2vec2_asr import Wav2Vec2CtcConfig, Wav2VecCtc
        from fairseq.tasks.audio_finetuning import AudioFinetuningConfig, AudioFinetuningTask
        from omegaconf import OmegaConf

        data = tmp_path / "data"
        data.mkdir(exist_ok=True)
        Units.letters().write_dictionary(data / "dict.ltr.txt")
        normalize = mode == "large"
        task_config = AudioFinetuningConfig(data=str(data), labels="ltr", normalize=normalize)
        task = AudioFinetuningTask.setup_task(task_config)
        settings = MODES[mode] | pretrained
        w2v_args = {
            "model": {**dataclasses.asdict(Wav2Vec2Config(**settings)), "_name": "wav2vec2"},
            "task": {"_name": "audio_pretraining", "data": "/gone", "normalize": normalize},
        }
        config = Wav2Vec2CtcConfig(
            w2v_path="/gone/pretrained.pt", w2v_args=OmegaConf.create(w2v_args), normalize=normalize, data=str(data)
        )
        torch.manual_seed(3)
        model = Wav2VecCtc.build_model(OmegaConf.structured(config), task).eval()
        torch.nn.init.normal_(model.w2v_encoder.proj.weight, std=0.2)
        model_config: Any = OmegaConf.to_container(OmegaConf.structured(config), resolve=False, enum_to_str=True)
        checkpoint = {
            "args": None,
            "cfg": {
                "_name": None,
                "common": {"seed": 1},
                "model": {**model_config, "_name": "wav2vec_ctc", "normalize": normalize, "data": str(data)},
                "task": {"_name": "audio_finetuning", "data": "/gone", "labels": "ltr", "normalize": normalize},
            },
            "model": model.state_dict(),
            "task_state": {"target_dictionary": task.target_dictionary} if stored_dictionary else {},
            "last_optimizer_state": None,
        }
        return Stock(model, checkpoint, task.target_dictionary)

    return build


def as_of_2020(checkpoint: dict[str, Any], mode: str) -> dict[str, Any]:
    """Return the checkpoint as fairseq saved it before hydra: with namespaces and without the task's state."""
    normalize = mode == "large"
    inner = Namespace(arch="wav2vec2", task="audio_pretraining", normalize=normalize, **MODES[mode])
    arguments = Namespace(
        arch="wav2vec_ctc",
        task="audio_pretraining",
        labels="ltr",
        normalize=normalize,
        w2v_path="/gone",
        w2v_args=inner,
    )
    return {"args": arguments, "model": checkpoint["model"]}


def save(checkpoint: dict[str, Any], path: Path) -> Path:
    torch.save(checkpoint, path)
    return path


@torch.inference_mode()
def assert_same_logits(stock: Stock, model: ModelFile) -> None:
    ours = model.build()
    for samples in (400, 5000, 12345):
        audio = torch.randn(1, samples)
        expected = stock.model(source=audio, padding_mask=None)["encoder_out"].transpose(0, 1)
        logits, _ = ours(audio)
        assert expected.std() > 0.1
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_current_stock_checkpoint_is_exported(stock: Callable[..., Stock], tmp_path: Path, mode: str) -> None:
    original = stock(mode)
    out = tmp_path / "model.safetensors"
    converted = export_checkpoint(save(original.checkpoint, tmp_path / "best.pt"), out)
    assert converted.units_source == "the checkpoint"
    header = read_header(out)
    assert header.normalize == (mode == "large")
    assert header.units == Units.letters()
    assert_same_logits(original, read_model(out))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("inner_is_a_dict", [False, True])
def test_stock_checkpoint_of_2020(
    stock: Callable[..., Stock], tmp_path: Path, mode: str, inner_is_a_dict: bool
) -> None:
    original = stock(mode)
    checkpoint = as_of_2020(original.checkpoint, mode)
    if inner_is_a_dict:
        checkpoint["args"].w2v_args = vars(checkpoint["args"].w2v_args)
    converted = read_checkpoint(save(checkpoint, tmp_path / "old.pt"))
    assert "LibriSpeech" in converted.units_source
    assert converted.model.header.normalize == (mode == "large")
    assert_same_logits(original, converted.model)


def test_oldest_checkpoints_read_the_settings_of_the_pretrained_checkpoint(
    stock: Callable[..., Stock], tmp_path: Path
) -> None:
    original = stock()
    checkpoint = as_of_2020(original.checkpoint, "base")
    pretrained = {"args": checkpoint["args"].w2v_args, "model": {}}
    checkpoint["args"].w2v_args = None
    checkpoint["args"].w2v_path = str(tmp_path / "pretrained.pt")
    path = save(checkpoint, tmp_path / "old.pt")
    with pytest.raises(InputError, match=r"no `w2v_args`.*pretrained\.pt, does not exist"):
        read_checkpoint(path)
    save(pretrained, tmp_path / "pretrained.pt")
    assert_same_logits(original, read_checkpoint(path).model)


def test_half_precision_and_pretraining_modules(stock: Callable[..., Stock], tmp_path: Path) -> None:
    original = stock()
    state = {name: tensor.half() for name, tensor in original.checkpoint["model"].items()}
    state["w2v_encoder.w2v_model.quantizer.vars"] = torch.zeros(1, 640, 16)
    state["w2v_encoder.w2v_model.final_proj.weight"] = torch.zeros(24, 32)
    converted = read_checkpoint(save(original.checkpoint | {"model": state}, tmp_path / "half.pt"))
    for name, tensor in converted.model.state.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, state[f"w2v_encoder.{name}"].float())


def test_student_checkpoint(stock: Callable[..., Stock], tmp_path: Path) -> None:
    original = stock()
    original.checkpoint["cfg"]["model"]["_name"] = "student_ctc"
    assert_same_logits(original, read_checkpoint(save(original.checkpoint, tmp_path / "student.pt")).model)


SPACE = {"squeeze": [1, 2], "query_pool": [1], "key_value_pool": [1, 3], "points": [], "layer_wise": False, "point": ""}
ALL = ["1,1,1", "1,1,3", "2,1,1", "2,1,3"]


@pytest.mark.parametrize(
    ("pretrained", "model", "task", "points", "point"),
    [
        ({}, {}, {}, ["1,1,1"], "1,1,1"),
        ({"_name": "stochastic_sew", "point": "2,1,1"}, {}, {}, ["2,1,1"], "2,1,1"),
        ({"_name": "pooled_transformer", "point": "1,1:2,1"}, {}, {}, ["1,1:2,1"], "1,1:2,1"),
        ({}, {"_name": "compressed_ctc", "point": "3,1,1"}, {}, ["3,1,1"], "3,1,1"),
        ({}, {"_name": "compressed_ctc", "point": ""}, SPACE, ALL, "1,1,1"),
        ({}, {"_name": "student_ctc", "point": "2,1,1"}, SPACE, ALL, "2,1,1"),
        ({"_name": "stochastic_sew", "point": "4,1,1"}, {"_name": "compressed_ctc"}, SPACE, ALL, "1,1,1"),
        ({}, {"_name": "compressed_ctc"}, SPACE | {"points": ["3,1,1", "2,2,2"]}, ["3,1,1", "2,2,2"], "2,2,2"),
        ({}, {"_name": "compressed_ctc", "point": "3,1,1"}, SPACE | {"point": "2,1,1"}, ["2,1,1"], "2,1,1"),
    ],
)
def test_trained_points_and_default_point(
    stock: Callable[..., Stock],
    tmp_path: Path,
    pretrained: dict[str, Any],
    model: dict[str, Any],
    task: dict[str, Any],
    points: list[str],
    point: str,
) -> None:
    checkpoint = stock().checkpoint
    checkpoint["cfg"]["model"]["w2v_args"]["model"].update(pretrained)
    checkpoint["cfg"]["model"].update(model)
    checkpoint["cfg"]["task"].update(task | ({"_name": "compressed_finetuning"} if task else {}))
    export_checkpoint(save(checkpoint, tmp_path / "best.pt"), tmp_path / "best.safetensors")
    header = read_header(tmp_path / "best.safetensors")
    assert [str(each) for each in header.space.all_points()] == points
    assert str(header.point) == point


def test_sew_has_learned_upsampling_for_its_squeeze_factor(stock: Callable[..., Stock], tmp_path: Path) -> None:
    checkpoint = stock().checkpoint
    settings = checkpoint["cfg"]["model"]["w2v_args"]["model"]
    settings.update({"_name": "sew", "squeeze_factor": 3, "mlp_heads": True})
    shape = {"weight": torch.randn(3 * 32, 32), "bias": torch.randn(3 * 32)}
    prefix = "w2v_encoder.w2v_model.encoder.upsampling.3."
    checkpoint["model"] = {**checkpoint["model"], **{f"{prefix}{name}": tensor for name, tensor in shape.items()}}
    model = read_checkpoint(save(checkpoint, tmp_path / "sew.pt")).model
    assert model.header.architecture.learned_upsampling == (3,)
    assert str(model.header.point) == "3,1,1"
    settings["squeeze_factor"] = 2
    with pytest.raises(InputError, match=r"sew\.pt: .*upsampling"):
        read_checkpoint(save(checkpoint, tmp_path / "sew.pt"))
    checkpoint["cfg"]["task"].update(SPACE | {"_name": "compressed_finetuning", "squeeze": ["two"]})
    with pytest.raises(InputError, match=r"sew\.pt: .*squeeze"):
        read_checkpoint(save(checkpoint, tmp_path / "sew.pt"))


def test_sources_of_the_units(stock: Callable[..., Stock], tmp_path: Path) -> None:
    original = stock(stored_dictionary=False)
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    path = save(original.checkpoint, folder / "best.pt")
    assert "LibriSpeech" in read_checkpoint(path).units_source

    reverse = Units("letter", Units.letters().symbols[:4] + Units.letters().symbols[:3:-1])
    original.checkpoint["cfg"]["task"]["data"] = str(tmp_path / "corpus")
    save(original.checkpoint, path)
    (tmp_path / "corpus").mkdir()
    reverse.write_dictionary(tmp_path / "corpus" / "dict.ltr.txt")
    assert read_checkpoint(path).model.header.units == reverse

    Units.letters().write_dictionary(folder / "dict.ltr.txt")
    assert read_checkpoint(path).model.header.units == Units.letters()

    for given in (tmp_path / "corpus", tmp_path / "corpus" / "dict.ltr.txt"):
        assert read_checkpoint(path, given).model.header.units == reverse
    with pytest.raises(InputError, match=r"the dictionary .*absent does not exist"):
        read_checkpoint(path, tmp_path / "absent")


def test_wrong_number_of_units_is_rejected(stock: Callable[..., Stock], tmp_path: Path) -> None:
    original = stock(stored_dictionary=False)
    state = dict(original.checkpoint["model"])
    for name in ("weight", "bias"):
        state[f"w2v_encoder.proj.{name}"] = state[f"w2v_encoder.proj.{name}"][:30]
    path = save(original.checkpoint | {"model": state}, tmp_path / "best.pt")
    with pytest.raises(
        InputError, match=r"30 units are not in the checkpoint, and there is no dict\.ltr\.txt .*--dict"
    ):
        read_checkpoint(path)
    with pytest.raises(InputError, match=r"CTC head has 30 units, but .*dict\.ltr\.txt has 32 symbols"):
        read_checkpoint(path, tmp_path / "data")


def test_sentencepiece_units(stock: Callable[..., Stock], tmp_path: Path) -> None:
    texts = [
        "the cat sat on the mat",
        "a man and a dog ran to the hat",
        "no one can eat that",
        "ten hens sit",
        "we go by bus for fun",
    ] * 5
    units = Units.train_sentencepiece(texts, 28)
    original = stock()
    original.dictionary.symbols[:] = units.symbols
    original.checkpoint["cfg"]["task"]["labels"] = "spm"
    path = save(original.checkpoint, tmp_path / "best.pt")
    with pytest.raises(InputError, match=r"there is no dict\.spm\.txt"):
        read_checkpoint(path)
    units.write_dictionary(tmp_path / "dict.spm.txt")
    assert read_checkpoint(path).model.header.units == units


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["cfg"]["model"].update(_name="wav2vec_seq2seq"), "the model is `wav2vec_seq2seq`"),
        (lambda c: c["cfg"]["model"].update(blank_weight=2.0), "`blank_weight` is 2.0"),
        (lambda c: c["cfg"]["model"].update(layer_type="conformer"), "`layer_type` is 'conformer'"),
        (lambda c: c["cfg"]["model"]["w2v_args"]["model"].update(pos_conv_depth=5), "`pos_conv_depth` is 5"),
        (lambda c: c["cfg"]["model"]["w2v_args"]["model"].update(quantize_input=True), "`quantize_input` is True"),
        (lambda c: c["cfg"]["model"]["w2v_args"]["model"].update(_name="data2vec_audio"), "`data2vec_audio`"),
        (
            lambda c: c["cfg"]["model"]["w2v_args"]["model"].update(conv_feature_layers="open('x')"),
            "conv_feature_layers",
        ),
        (lambda c: c["cfg"]["task"].update(sample_rate=8000), "`task.sample_rate` is 8000"),
        (lambda c: c["cfg"].pop("task"), "no `task`"),
        (lambda c: c.pop("cfg"), "neither `cfg` nor `args`"),
        (lambda c: c["model"].pop("w2v_encoder.proj.bias"), "was not fine-tuned"),
        (lambda c: c["model"].pop("w2v_encoder.proj.weight"), "the tensor `proj.weight` is missing"),
        (lambda c: c["model"].update(decoder=torch.zeros(1)), "the tensor `decoder` is unknown"),
        (lambda c: c["model"].update({"w2v_encoder.wing": torch.zeros(1)}), "the tensor `wing` is unknown"),
    ],
)
def test_unsupported_checkpoints_are_rejected(
    stock: Callable[..., Stock], tmp_path: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    checkpoint = stock().checkpoint
    change(checkpoint)
    path = save(checkpoint, tmp_path / "odd.pt")
    with pytest.raises(InputError, match=message) as caught:
        export_checkpoint(path, tmp_path / "out.safetensors")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.safetensors").exists()


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_hostile_pickle_is_rejected_and_not_run(stock: Callable[..., Stock], tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    path = save(stock().checkpoint | {"extra": Hostile(trace)}, tmp_path / "hostile.pt")
    with pytest.raises(InputError, match=r"hostile\.pt: .*mkdir"):
        read_checkpoint(path)
    assert not trace.exists()
