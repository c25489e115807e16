"""The network against stock fairseq with the same state dict."""

import dataclasses

import pytest
import torch

from w2v_compress.nn import feature_extractor
from w2v_compress.nn.acoustic_model import AcousticModel
from w2v_compress.nn.architecture import Architecture
from w2v_compress.nn.feature_extractor import FeatureExtractor

NARROW = ((32, 10, 5),) + ((32, 3, 2),) * 4 + ((32, 2, 2),) * 2
BASE = Architecture(
    conv_layers=NARROW,
    encoder_layers=3,
    encoder_embed_dim=48,
    encoder_ffn_embed_dim=96,
    encoder_attention_heads=4,
    conv_pos=16,
    conv_pos_groups=4,
)
ARCHITECTURES = {
    "base": BASE,
    "base, pre-norm": dataclasses.replace(BASE, layer_norm_first=True),
    "base, conv bias, odd kernel": dataclasses.replace(BASE, conv_bias=True, conv_pos=15),
    "large": dataclasses.replace(BASE, extractor_mode="layer_norm", conv_bias=True, layer_norm_first=True),
    "layer-norm extractor, post-norm": dataclasses.replace(BASE, extractor_mode="layer_norm"),
    "equal widths, relu, kernel over twice the stride": dataclasses.replace(
        BASE, encoder_embed_dim=32, activation_fn="relu", conv_layers=((32, 10, 5), (32, 5, 2), (32, 5, 3), (32, 1, 1))
    ),
}


def stock_model(architecture: Architecture) -> torch.nn.Module:
    """Build a stock `wav2vec_ctc` over `wav2vec2` in eval mode, with random parameters, norms and biases included."""
    from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config, Wav2Vec2Model
    from fairseq.models.wav2vec.wav2vec2_asr import Wav2Vec2CtcConfig, Wav2VecCtc, Wav2VecEncoder

    shape = architecture.to_fairseq()
    del shape["_name"]
    network = Wav2Vec2Model(Wav2Vec2Config(**shape))
    network.remove_pretraining_modules()
    encoder = Wav2VecEncoder.__new__(Wav2VecEncoder)
    torch.nn.Module.__init__(encoder)
    encoder.w2v_model = network
    encoder.proj = torch.nn.Linear(architecture.encoder_embed_dim, architecture.num_units)
    encoder.final_dropout = torch.nn.Dropout(0.0)
    encoder.apply_mask, encoder.freeze_finetune_updates, encoder.num_updates = False, 0, 0
    encoder.is_d2v_multi = False
    model = Wav2VecCtc(Wav2Vec2CtcConfig(), encoder).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
            elif "pos_conv" not in name:
                parameter.mul_(1.5)
    return model


def ours(stock: torch.nn.Module, architecture: Architecture, **options: str) -> AcousticModel:
    model = AcousticModel(architecture, **options).eval()
    model.load_state_dict(stock.w2v_encoder.state_dict(), strict=True)
    return model


@pytest.fixture(params=ARCHITECTURES, scope="module")
def pair(request):
    torch.manual_seed(7)
    architecture = ARCHITECTURES[request.param]
    stock = stock_model(architecture)
    return stock, architecture


@torch.no_grad()
@pytest.mark.parametrize("samples", [400, 2000, 16000, 33333])
def test_logits_of_single_utterances_equal_stock(pair, samples):
    stock, architecture = pair
    audio = torch.randn(1, samples) + 0.3  # with an offset that the group norm must remove
    expected = stock.get_logits(stock(source=audio, padding_mask=None)).transpose(0, 1)
    logits, frames = ours(stock, architecture)(audio)
    assert logits.shape[1] == frames.item() == architecture.frames(samples) == expected.shape[1]
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    assert expected.std() > 0.1  # all-zero logits would be equal too


@torch.no_grad()
def test_logits_in_a_mixed_batch_equal_those_of_single_utterances(pair):
    stock, architecture = pair
    model = ours(stock, architecture)
    lengths = torch.tensor([16000, 5000, 9333, 407])
    batch = torch.zeros(4, 16000)
    for row, length in enumerate(lengths):
        batch[row, :length] = torch.randn(length) + 0.3
    logits, frames = model(batch, lengths)
    for row, length in enumerate(lengths):
        alone, _ = model(batch[row : row + 1, :length])
        assert frames[row] == alone.shape[1]
        torch.testing.assert_close(logits[row, : frames[row]], alone[0], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_padded_statistics_reproduce_a_stock_batch(pair):
    stock, architecture = pair
    lengths = torch.tensor([16000, 5000])
    batch = torch.randn(2, 16000) + 0.3
    padding = torch.arange(16000) >= lengths[:, None]
    batch[padding] = 0
    out = stock(source=batch, padding_mask=padding)
    expected = out["encoder_out"].transpose(0, 1)
    logits, frames = ours(stock, architecture, group_norm_statistics="padded")(batch, lengths)
    for row in range(2):
        torch.testing.assert_close(logits[row, : frames[row]], expected[row, : frames[row]], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_stock_group_norm_depends_on_padding():
    """The reason for a different default: without this dependence, the mode "padded" would be unnecessary."""
    torch.manual_seed(7)
    stock = stock_model(BASE)
    audio = torch.randn(1, 5000) + 0.3
    padded = torch.nn.functional.pad(audio, (0, 11000))
    padding = torch.arange(16000)[None] >= 5000
    alone = stock(source=audio, padding_mask=None)["encoder_out"]
    in_batch = stock(source=padded, padding_mask=padding)["encoder_out"][: len(alone)]
    assert (alone - in_batch).abs().max() > 0.01


@pytest.mark.parametrize("padded", [False, True])
def test_gradients_equal_stock(pair, padded):
    torch.manual_seed(9)  # some draws come so close to a corner of ReLU that rounding decides the gradient
    stock, architecture = pair
    stock.zero_grad()
    model = ours(stock, architecture, group_norm_statistics="padded")
    lengths = torch.tensor([8000, 3000] if padded else [8000])
    padding = torch.arange(8000) >= lengths[:, None] if padded else None
    audio = torch.randn(len(lengths), 8000)
    weighting = torch.randn(len(lengths), architecture.frames(8000), architecture.num_units)
    for row, frames in enumerate(model.frame_lengths(lengths)):
        weighting[row, frames:] = 0  # a loss excludes padding
    (stock(source=audio, padding_mask=padding)["encoder_out"].transpose(0, 1) * weighting).sum().backward()
    (model(audio, lengths if padded else None)[0] * weighting).sum().backward()
    expected = {name: p.grad for name, p in stock.w2v_encoder.named_parameters() if p.grad is not None}
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    if architecture.conv_bias and architecture.extractor_mode == "default":
        # The bias cancels in the group norm: in stock its gradient is rounding error, here it is not used.
        assert expected.pop("w2v_model.feature_extractor.conv_layers.0.0.bias").abs().max() < 1e-4
    assert gradients.keys() == expected.keys()
    for parameter, gradient in gradients.items():
        scale = expected[parameter].abs().max()
        assert (gradient - expected[parameter]).abs().max() <= 1e-4 * scale + 1e-6, parameter


@pytest.mark.parametrize("extractor_mode", ["layer_norm", "default"])
def test_features_do_not_depend_on_chunking(extractor_mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The extractor computes all frames at once with gradients, and in chunks without."""
    torch.manual_seed(4)
    architecture = dataclasses.replace(BASE, extractor_mode=extractor_mode)
    extractor = FeatureExtractor(architecture)
    audio, lengths = torch.randn(2, 9000), torch.tensor([9000, 7000])
    whole = extractor(audio, lengths)
    monkeypatch.setattr(feature_extractor, "CHUNK_FRAMES", 5)  # of 27
    with torch.inference_mode():
        torch.testing.assert_close(extractor(audio, lengths), whole.detach(), rtol=0, atol=1e-5)
