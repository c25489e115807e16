"""How many multiply-accumulates the network takes, counted from its shape: docs/stochastic.md has the formulas.

What is counted is every matrix product and convolution that the network runs on one utterance alone; norms, softmax and
activations, which are less than 1% of the work, are not. tests hold it equal to torch's own counter.
"""

from collections.abc import Iterator
from dataclasses import astuple, dataclass

from ..errors import InputError
from ..nn.architecture import Architecture
from ..nn.compression import CompressionPoint


@dataclass(frozen=True, kw_only=True)
class Compute:
    """Multiply-accumulates, part by part."""

    extractor: int
    """The convolutions over the waveform, with the group norm's statistics."""
    projection: int
    """From features to the encoder's width."""
    positional: int
    """The positional convolution."""
    attention_projections: int
    """To queries, keys and values, and to the output."""
    attention_products: int
    """Queries with keys, and weights with values."""
    feed_forward: int
    upsampling: int
    """Learned upsampling; repetition takes none."""
    head: int
    """From the encoder's output to units."""

    @property
    def encoder(self) -> int:
        """All that depends on the point of compression."""
        layers = self.attention_projections + self.attention_products + self.feed_forward
        return self.positional + layers + self.upsampling

    @property
    def total(self) -> int:
        """The whole network."""
        return sum(astuple(self))


def count_compute(architecture: Architecture, samples: int, point: CompressionPoint) -> Compute:
    """The multiply-accumulates of `architecture` on one utterance of `samples` samples at `point`.

    Raises `InputError` when the point is one of another number of layers, or the utterance too short for a frame.
    """
    time, channels = architecture.frames(samples), architecture.encoder_embed_dim
    if time == 0:
        raise InputError(f"`samples` is {samples}; it must be at least {architecture.receptive_field}")
    features = architecture.conv_layers[-1][0]
    frames = _groups(time, point.squeeze)
    pools = [
        (_groups(frames, query), _groups(frames, key_value))
        for query, key_value in point.of_layers(architecture.encoder_layers)
    ]
    # What the padding on both sides gives is computed whole; an even kernel gives a frame that is cut off.
    padded = time + 2 * (architecture.conv_pos // 2)
    positions = (padded - architecture.conv_pos) // point.squeeze + 1
    learned = point.squeeze if point.squeeze in architecture.learned_upsampling else 0
    return Compute(
        extractor=sum(_extractor_layers(architecture, samples)),
        projection=time * features * channels if features != channels else 0,
        positional=positions * architecture.conv_pos * channels * (channels // architecture.conv_pos_groups),
        attention_projections=sum(2 * (queries + keys) * channels**2 for queries, keys in pools),
        attention_products=sum(2 * queries * keys * channels for queries, keys in pools),
        feed_forward=2 * architecture.encoder_layers * frames * channels * architecture.encoder_ffn_embed_dim,
        upsampling=learned * frames * channels**2,
        head=time * channels * architecture.num_units,
    )


def _groups(frames: int, factor: int) -> int:
    """Groups of `factor` frames, the last one perhaps smaller."""
    return -(-frames // factor)


def _extractor_layers(architecture: Architecture, samples: int) -> Iterator[int]:
    """Of each convolution. The first one's group norm takes the covariance of its windows, and scales its weights, each
    in two parts (`nn.feature_extractor`).
    """
    in_channels, time = 1, samples
    for index, (channels, kernel, stride) in enumerate(architecture.conv_layers):
        time = (time - kernel) // stride + 1
        yield time * kernel * in_channels * channels
        if index == 0 and architecture.extractor_mode == "default":
            yield kernel * (time * kernel + channels * kernel + channels + time * channels)
        in_channels = channels
