import pytest

from w2v_compress.nn.architecture import ARCHITECTURES, Architecture


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a small architecture."""
    architecture = Architecture(
        conv_layers=((16, 10, 5), *[(16, 3, 2)] * 4, *[(16, 2, 2)] * 2),
        encoder_layers=2,
        encoder_embed_dim=128,  # channel masks are 64 wide
        encoder_ffn_embed_dim=64,
        encoder_attention_heads=2,
        conv_pos=16,
        conv_pos_groups=4,
    )
    monkeypatch.setitem(ARCHITECTURES, "small", architecture)
    return "small"
