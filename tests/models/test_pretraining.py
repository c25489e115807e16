"""Pre-training models against stock `wav2vec2`, compression points, initial checkpoints and invalid settings."""

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq.criterions.wav2vec_criterion import Wav2vecCriterion
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config, Wav2Vec2Model
from omegaconf import OmegaConf

import w2v_compress.models  # noqa: F401  (patches fairseq and registers)
from w2v_compress.errors import InputError
from w2v_compress.interop.fairseq_checkpoint import read_initial
from w2v_compress.models.pooled_transformer import PooledTransformer, PooledTransformerConfig
from w2v_compress.models.pretraining import Fp32BatchNorm, PretrainingModel
from w2v_compress.models.sew import Sew, SewConfig
from w2v_compress.models.stochastic_sew import StochasticSew, StochasticSewConfig
from w2v_compress.nn.acoustic_model import AcousticModel
from w2v_compress.nn.architecture import named_architecture
from w2v_compress.nn.compression import CompressionPoint

TINY = {
    "conv_feature_layers": "[(24, 10, 5)] + [(24, 3, 2)] * 2",
    "encoder_layers": 2,
    "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 48,
    "encoder_attention_heads": 4,
    "conv_pos": 8,
    "conv_pos_groups": 4,
    "final_dim": 16,
    "latent_vars": 8,
    "num_negatives": 6,
    "mask_length": 4,
    "quantize_targets": True,
}
WITHOUT_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0}
MODELS: dict[str, tuple[type, type]] = {
    "sew": (Sew, SewConfig),
    "stochastic_sew": (StochasticSew, StochasticSewConfig),
    "pooled_transformer": (PooledTransformer, PooledTransformerConfig),
}
POINTS = {
    "sew": ["1,1,1", "2,1,1", "2,2,2"],
    "stochastic_sew": ["1,1,1", "2,1,1", "3,2,1", "4,1:2,2:1"],
    "pooled_transformer": ["1,1,1", "1,2,1", "1,1:3,2:1"],
}


def build(name: str, **settings: Any) -> PretrainingModel:
    model, config = MODELS[name]
    torch.manual_seed(1)
    return model.build_model(OmegaConf.structured(config(**TINY | settings)))


def outcome(model: Any, padded: bool = False, **inputs: Any) -> tuple[dict[str, Any], float]:
    """Return the outputs for a batch of noise and the loss of the stock criterion, after the backward pass."""
    torch.manual_seed(5)
    source, padding = torch.randn(3, 2400), torch.zeros(3, 2400, dtype=torch.bool)
    if padded:
        padding[1, 1500:] = padding[2, 901:] = True
    inputs = {"source": source.masked_fill(padding, 0), "padding_mask": padding, **inputs}
    criterion = Wav2vecCriterion(SimpleNamespace(), infonce=True, loss_weights=[0.5])
    outputs = {}

    class RecordingModel:
        def __call__(self, **inputs: Any) -> Any:
            outputs.update(model(**inputs))
            return outputs

        def __getattr__(self, name: str) -> Any:
            return getattr(model, name)

    torch.manual_seed(6)
    loss, _, _ = criterion(RecordingModel(), {"id": torch.arange(3), "net_input": inputs})
    model.zero_grad()
    loss.backward()
    return outputs, loss.item()


VARIANTS: dict[str, dict[str, Any]] = {
    "base": {"feature_grad_mult": 0.1},
    "large": {"extractor_mode": "layer_norm", "layer_norm_first": True, "conv_bias": True},
    "negatives from everywhere": {"negatives_from_everywhere": True, "target_glu": True},
    "other negatives": {"codebook_negatives": 3, "cross_sample_negatives": 2, "feature_grad_mult": 0.0},
    "continuous targets": {"quantize_targets": False, "mask_channel_prob": 0.3, "mask_channel_length": 4},
    "continuous, from everywhere": {"quantize_targets": False, "negatives_from_everywhere": True},
    "equal widths": {"encoder_embed_dim": 24, "mask_channel_before": True, "mask_channel_prob": 0.5},
    "checkpointed": {"checkpoint_activations": True, "quantizer_depth": 2},
}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("name", "variant"), [*(("stochastic_sew", variant) for variant in VARIANTS), ("pooled_transformer", "base")]
)
def test_uncompressed_models_equal_stock(name: str, variant: str, training: bool) -> None:
    """Logits, losses and gradients are equal, with the weights of a stock checkpoint loaded strictly."""
    settings = TINY | WITHOUT_DROPOUT | VARIANTS[variant]
    torch.manual_seed(2)
    stock = Wav2Vec2Model(Wav2Vec2Config(**settings)).train(training)
    model = build(name, **settings).train(training)
    model.load_state_dict(stock.state_dict(), strict=True)
    expected, expected_loss = outcome(stock)
    outputs, loss = outcome(model)
    assert outputs.keys() == expected.keys()
    assert expected["x"].shape[1:] == (3, expected["x"].shape[2])
    torch.testing.assert_close(outputs["x"], expected["x"], rtol=1e-5, atol=1e-5)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    for parameter_name, parameter in stock.named_parameters():
        gradient = gradients[parameter_name]
        assert (gradient is None) == (parameter.grad is None), parameter_name
        if gradient is not None:
            scale = max(1.0, parameter.grad.abs().max().item())
            torch.testing.assert_close(gradient, parameter.grad, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("training", [False, True])
def test_padded_batches_without_group_norm_equal_stock(training: bool) -> None:
    settings = TINY | WITHOUT_DROPOUT | VARIANTS["large"]
    stock = Wav2Vec2Model(Wav2Vec2Config(**settings)).train(training)
    model = build("stochastic_sew", **settings).train(training)
    model.load_state_dict(stock.state_dict())
    expected, expected_loss = outcome(stock, padded=True)
    outputs, loss = outcome(model, padded=True)
    torch.testing.assert_close(outputs["x"], expected["x"], rtol=1e-5, atol=1e-5)
    assert torch.equal(outputs["padding_mask"], expected["padding_mask"])
    assert loss == pytest.approx(expected_loss, rel=1e-5)


@pytest.mark.parametrize("extractor_mode", ["default", "layer_norm"])
@pytest.mark.parametrize(("name", "point"), [(name, point) for name in MODELS for point in POINTS[name]])
@torch.no_grad()
def test_padding_does_not_change_the_features(name: str, point: str, extractor_mode: str) -> None:
    model = build(name, extractor_mode=extractor_mode).eval()
    at = CompressionPoint.parse(point)
    lengths = torch.tensor([2400, 1501, 907])
    padding = torch.arange(2400) >= lengths.unsqueeze(1)
    audio = torch.randn(3, 2400).masked_fill(padding, 0)
    batch = model.extract_features(audio, padding, point=at)
    for row, length in enumerate(lengths):
        alone = model.extract_features(audio[row : row + 1, :length], None, point=at)["x"]
        assert (~batch["padding_mask"][row]).sum() == alone.shape[1]
        torch.testing.assert_close(batch["x"][row, : alone.shape[1]], alone[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", MODELS)
def test_every_point_trains(name: str, dtype: torch.dtype) -> None:
    model = build(name, mlp_heads=True) if name == "stochastic_sew" else build(name)
    model.to(dtype).train()
    frames = set()
    for point in POINTS[name]:
        torch.manual_seed(3)
        inputs = {"source": torch.randn(2, 3000).to(dtype), "point": CompressionPoint.parse(point)}
        outputs, loss = outcome(model, **inputs)
        frames.add(outputs["x"].shape[2])
        assert outputs["x"].dtype == dtype
        assert 0 < loss < 1e6
        unused = {parameter_name for parameter_name, parameter in model.named_parameters() if parameter.grad is None}
        assert all("upsampling" in parameter_name for parameter_name in unused)
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        assert all(torch.isfinite(gradient).all() for gradient in gradients)
        assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert len(frames) == 1  # masks and loss are at the frame rate of the feature extractor


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_batch_norm_equals_torchs_and_has_fp32_statistics(dtype: torch.dtype) -> None:
    torch.manual_seed(2)
    ours, stock = Fp32BatchNorm(5).to(dtype), torch.nn.BatchNorm1d(5)
    for _ in range(3):
        x = torch.randn(40, 5).to(dtype)
        out = ours(x)
        assert out.dtype == ours.weight.dtype == dtype
        torch.testing.assert_close(out, stock(x.float()).to(dtype))
    for name in ("running_mean", "running_var"):
        assert getattr(ours, name).dtype == torch.float32
        torch.testing.assert_close(getattr(ours, name), getattr(stock, name))
    torch.testing.assert_close(ours.eval()(x), stock.eval()(x.float()).to(dtype))


@pytest.mark.parametrize("point", ["1,1,1", "3,2,2"])
def test_recomputed_activations_have_the_same_gradients_with_dropout_and_layer_drop(point: str) -> None:
    results = []
    for checkpointed in (False, True):
        model = build(
            "stochastic_sew", checkpoint_activations=checkpointed, encoder_layerdrop=0.6, encoder_layers=4
        ).train()
        _, loss = outcome(model, padded=True, point=CompressionPoint.parse(point))
        results.append((loss, {name: parameter.grad for name, parameter in model.named_parameters()}))
    assert results[0][0] == results[1][0]
    skipped = {name.split(".")[2] for name, gradient in results[0][1].items() if gradient is None}
    assert 0 < len(skipped) < 4
    for name, gradient in results[0][1].items():
        if gradient is not None:
            torch.testing.assert_close(results[1][1][name], gradient, rtol=0, atol=1e-6)


def test_a_model_runs_at_its_own_point_by_default() -> None:
    audio = torch.randn(1, 4000)
    for name, settings, point in (
        ("sew", {}, "2,1,1"),
        ("sew", {"squeeze_factor": 3}, "3,1,1"),
        ("stochastic_sew", {"point": "4,2,2"}, "4,2,2"),
        ("pooled_transformer", {"point": "1,1:2,2"}, "1,1:2,2"),
    ):
        model = build(name, **settings).eval()
        own = model.extract_features(audio, None)["x"]
        assert torch.equal(own, model.extract_features(audio, None, point=CompressionPoint.parse(point))["x"])
        assert not torch.equal(own, model.extract_features(audio, None, point=CompressionPoint())["x"])


def test_states_after_a_layer_equal_stock() -> None:
    stock = Wav2Vec2Model(Wav2Vec2Config(**TINY)).eval()
    model = build("pooled_transformer").eval()
    model.load_state_dict(stock.state_dict())
    audio = torch.randn(2, 3000)
    for layer in range(2):
        expected = stock.extract_features(audio, None, layer=layer)
        features = model.extract_features(audio, None, layer=layer)
        torch.testing.assert_close(features["x"], expected["x"], rtol=0, atol=1e-5)
        torch.testing.assert_close(features["layer_results"][layer][0], expected["layer_results"][layer][0])
    for ours, theirs in zip(model.quantize(audio), stock.quantize(audio), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("size", "millions"), [("tiny", 40.7), ("small", 89.6), ("mid", 174.7)])
def test_sew_has_the_published_number_of_parameters(size: str, millions: float) -> None:
    """Count the network with 32 letters, and compare it with the pre-training model without its heads."""
    shapes = {
        "tiny": {"encoder_embed_dim": 512, "encoder_ffn_embed_dim": 2048, "encoder_attention_heads": 8},
        "small": {},
        "mid": {"encoder_layers": 24},
    }
    with torch.device("meta"):
        network = AcousticModel(named_architecture(f"sew-{size}"))
        model = Sew(SewConfig(quantize_targets=True, **shapes[size]))
    assert round(sum(parameter.numel() for parameter in network.parameters()) / 1e6, 1) == millions
    model.remove_pretraining_modules()
    left, ours = (
        {name: tensor.shape for name, tensor in module.state_dict().items()} for module in (model, network.w2v_model)
    )
    assert left == ours


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("stochastic_sew", {"quantize_input": True}, "model: `quantize_input` is True; only False is supported"),
        ("stochastic_sew", {"layer_type": "conformer"}, "model: `layer_type` is 'conformer'"),
        ("pooled_transformer", {"pos_conv_depth": 5}, "model: `pos_conv_depth` is 5"),
        ("pooled_transformer", {"crop_seq_to_multiple": 2}, "model: `crop_seq_to_multiple` is 2"),
        ("pooled_transformer", {"point": "2,1,1"}, "model: .*2,1,1: `pooled_transformer` has no squeeze"),
        ("pooled_transformer", {"point": "1,1:2:1,1"}, "model: .*`query_pool` has 3 factors, but the network has 2"),
        ("stochastic_sew", {"point": "2,x,1"}, "model: compression point '2,x,1' cannot be read"),
        ("stochastic_sew", {"learned_upsampling": [2, 4], "point": "3,1,1"}, "learned to upsample for .* 2, 4"),
        ("stochastic_sew", {"learned_upsampling": [1]}, "`learned_upsampling` is .*from 2"),
        ("sew", {"squeeze_factor": 0}, "model: .*squeeze"),
        ("sew", {"activation_fn": "tanh"}, "model: architecture: `activation_fn` is 'tanh'"),
    ],
)
def test_unsupported_settings_are_rejected(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(name, **settings)


def test_an_unsupported_point_is_rejected_in_the_forward_pass() -> None:
    audio = torch.randn(1, 4000)
    for name, squeeze in (("pooled_transformer", 2), ("sew", 3)):
        with pytest.raises(InputError, match=f"compression point {squeeze},1,1"):
            build(name)(audio, point=CompressionPoint(squeeze))


@pytest.fixture
def stock_checkpoint(tmp_path: Path) -> Callable[..., tuple[Path, dict[str, torch.Tensor]]]:
    """Return stock_checkpoint(**settings), which writes stock `wav2vec2` and returns its path and tensors."""

    def write(**settings: Any) -> tuple[Path, dict[str, torch.Tensor]]:
        torch.manual_seed(8)
        state = Wav2Vec2Model(Wav2Vec2Config(**TINY | settings)).state_dict()
        path = tmp_path / "stock.pt"
        torch.save({"cfg": {"model": {"_name": "wav2vec2"}, "task": {}}, "model": state}, path)
        return path, state

    return write


def test_matching_tensors_of_an_initial_checkpoint_are_copied(stock_checkpoint, caplog) -> None:
    path, state = stock_checkpoint()
    with caplog.at_level(logging.INFO):
        model = build("stochastic_sew", init_checkpoint=str(path), learned_upsampling=[2], conv_pos=16, point="2,1,1")
    own = model.state_dict()
    differing = {name for name in own if name not in state or not torch.equal(own[name], state[name])}
    assert differing == {
        "encoder.pos_conv.0.weight_g",
        "encoder.pos_conv.0.weight_v",
        "encoder.upsampling.2.weight",
        "encoder.upsampling.2.bias",
    }
    log = caplog.text
    assert f"not copied from {path}: encoder.pos_conv.0.weight_g, encoder.pos_conv.0.weight_v\n" in log
    assert f"initialized at random, not in {path}: encoder.pos_conv.0.weight_g" in log
    assert "encoder.upsampling.2.bias" in log


def test_a_fine_tuned_checkpoint_can_be_the_initial_checkpoint(stock_checkpoint) -> None:
    path, state = stock_checkpoint()
    renamed = {f"w2v_encoder.w2v_model.{name}": tensor for name, tensor in state.items()}
    torch.save({"cfg": {"model": {"_name": "wav2vec_ctc"}}, "model": renamed}, path)
    model = build("pooled_transformer", init_checkpoint=str(path))
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_an_initial_checkpoint_without_matching_tensors_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    torch.save({"cfg": {}, "model": {"mask_emb": torch.zeros(7)}}, path)
    with pytest.raises(InputError, match=r"other\.pt: model\.init_checkpoint has no tensor that matches"):
        build("stochastic_sew", init_checkpoint=str(path))
    with pytest.raises(InputError, match=r"gone\.pt: cannot be read"):
        build("stochastic_sew", init_checkpoint=str(tmp_path / "gone.pt"))


@pytest.mark.parametrize("name", MODELS)
def test_stock_training_of_each_model(
    name: str, train: Callable[..., None], pretraining: tuple[str, ...], stock_checkpoint, tmp_path: Path
) -> None:
    """Train with the stock task and trainer, with accumulated gradients."""
    shape = {"conv_feature_layers": "[(16, 10, 5)] + [(16, 3, 2)] * 2", "encoder_embed_dim": 16}
    path, _ = stock_checkpoint(**shape)
    overrides = [override for override in pretraining if not override.startswith("model=")]
    train(
        f"model={name}",
        *overrides,
        f"model.init_checkpoint={path}",
        "optimization.max_update=2",
        "optimization.update_freq=[2]",
        f"checkpoint.save_dir={tmp_path}",
    )
    path.unlink()  # the trained model does not need it
    initial = read_initial(tmp_path / "checkpoint_last.pt")
    assert not initial.fine_tuned
    assert str(initial.model.header.point) == ("2,1,1" if name == "sew" else "1,1,1")

    from fairseq.checkpoint_utils import load_model_ensemble_and_task

    (model,), _, _ = load_model_ensemble_and_task([str(tmp_path / "checkpoint_last.pt")])
    audio = torch.randn(1, 4000)
    features = model.eval().extract_features(audio, None)["x"]
    initial.model.state["proj.weight"] = torch.eye(32)[:, :16]  # this head copies its input
    logits, _ = initial.model.build()(audio, None, initial.model.header.point)
    torch.testing.assert_close(logits[..., :16], features, rtol=0, atol=1e-5)
