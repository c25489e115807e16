"""LayerDrop, dropout, gradient scaling and masks in training."""

import pytest
import torch

from w2v_compress.nn.acoustic_model import AcousticModel, FeatureMasks
from w2v_compress.nn.architecture import Architecture
from w2v_compress.nn.options import TrainingOptions

ARCHITECTURE = Architecture(
    conv_layers=((16, 10, 5), (16, 8, 4)),
    encoder_layers=12,
    encoder_embed_dim=32,
    encoder_ffn_embed_dim=32,
    encoder_attention_heads=4,
    conv_pos=8,
    conv_pos_groups=4,
)


def model(**settings: float) -> AcousticModel:
    torch.manual_seed(1)
    return AcousticModel(ARCHITECTURE, options=TrainingOptions(**settings))


def test_layerdrop_by_seed_depends_on_the_seed_only_and_has_its_rate():
    encoder = model(layerdrop=0.3, layerdrop_by_seed=True).w2v_model.encoder

    def skipped(seed: int, draws: int) -> list[int]:
        torch.manual_seed(seed)
        torch.rand(draws)  # batches of different sizes draw different numbers of masks first
        return sorted(encoder.layers_to_skip())

    assert skipped(5, 0) == skipped(5, 1000)
    skips = [skipped(seed, 0) for seed in range(300)]
    assert 0.25 < sum(map(len, skips)) / (300 * 12) < 0.35
    assert len({tuple(skip) for skip in skips}) > 100
    encoder.eval()
    assert skipped(5, 0) == []


def test_layerdrop_skips_other_layers_in_each_forward_pass():
    encoder = model(layerdrop=0.3).w2v_model.encoder
    torch.manual_seed(5)
    skips = [sorted(encoder.layers_to_skip()) for _ in range(300)]
    assert 0.25 < sum(map(len, skips)) / (300 * 12) < 0.35
    assert len({tuple(skip) for skip in skips}) > 100
    torch.manual_seed(5)
    assert [sorted(encoder.layers_to_skip()) for _ in range(300)] == skips


def test_a_skipped_layer_returns_its_input():
    encoder = model(layerdrop=0.5, layerdrop_by_seed=True).w2v_model.encoder
    torch.manual_seed(3)
    skipped = encoder.layers_to_skip()
    assert 0 < len(skipped) < 12
    _, hidden = encoder(torch.randn(1, 20, 32), None, return_hidden=True)
    assert len(hidden) == 12
    same = {index for index in range(1, 12) if torch.equal(hidden[index], hidden[index - 1])}
    assert same == skipped - {0}


def test_dropouts_are_off_in_eval_mode():
    network = model(dropout=0.5, attention_dropout=0.5, activation_dropout=0.5, dropout_input=0.5, final_dropout=0.5)
    plain = model()
    plain.load_state_dict(network.state_dict())
    audio = torch.randn(1, 4000)
    assert not torch.equal(network(audio)[0], plain(audio)[0])
    assert torch.equal(network.eval()(audio)[0], plain.eval()(audio)[0])


@pytest.mark.parametrize("factor", [0.0, 0.1, 1.0])
def test_feature_gradients_are_scaled(factor):
    audio = torch.randn(1, 4000)

    def gradient(network: AcousticModel) -> torch.Tensor | None:
        network(audio)[0].square().sum().backward()
        return network.get_submodule("w2v_model.feature_extractor.conv_layers.1.0").weight.grad

    scaled, whole = gradient(model(feature_grad_mult=factor)), gradient(model())
    if factor == 0:
        assert scaled is None
    else:
        torch.testing.assert_close(scaled, factor * whole)


@torch.no_grad()
def test_masks_replace_frames_and_zero_channels():
    network = model().eval()
    frames = ARCHITECTURE.frames(4000)
    time = torch.zeros(1, frames, dtype=torch.bool)
    time[:, 3:9] = True
    channels = torch.zeros(1, 32, dtype=torch.bool)
    channels[:, 4:7] = True
    seen = {}
    network.w2v_model.encoder.register_forward_pre_hook(lambda _, inputs: seen.update(x=inputs[0]))
    network.run(torch.randn(1, 4000), masks=FeatureMasks(time, channels))
    expected = network.w2v_model.mask_emb.masked_fill(channels[0], 0)
    assert torch.equal(seen["x"][0, 3:9], expected.expand(6, -1))
    assert (seen["x"][0, :, 4:7] == 0).all()
    assert (seen["x"][0, 9:, :4] != network.w2v_model.mask_emb[:4]).any()
