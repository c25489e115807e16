"""Multiply-accumulate count of the network, computed from its architecture; docs/stochastic.md has the formulas.

Counts every matrix product and convolution that the network runs on one utterance without padding. Norms, softmax and
activations, less than 1% of the operations, are not counted. The tests compare the count with torch's own counter.
"""

from collections.abc import Iterator
from dataclasses import astuple, dataclass

from ..errors import InputError
from ..nn.architecture import Architecture
from ..nn.compression import CompressionPoint


@dataclass(frozen=True, kw_only=True)
class Compute:
    """Multiply-accumulates of each part of the network."""

    extractor: int
    """Convolutions over the waveform, including the statistics of the group norm."""
    projection: int
    """Projection from the features to the encoder's width."""
    positional: int
    """Positional convolution."""
    attention_projections: int
    """Projections to queries, keys and values, and the output projection."""
    attention_products: int
    """Products of queries with keys, and of attention weights with values."""
    feed_forward: int
    """Both linear layers of every feed-forward block."""
    upsampling: int
    """Learned upsampling; upsampling by repetition needs no multiplications."""
    head: int
    """Projection from the encoder's output to the output units."""

    @property
    def encoder(self) -> int:
        """Multiply-accumulates of the parts that depend on the compression point."""
        layers = self.attention_projections + self.attention_products + self.feed_forward
        return self.positional + layers + self.upsampling

    @property
    def total(self) -> int:
        """Multiply-accumulates of the complete network."""
        return sum(astuple(self))


def count_compute(architecture: Architecture, samples: int, point: CompressionPoint) -> Compute:
    """Count the multiply-accumulates of `architecture` for one utterance of `samples` samples at `point`.

    Raises `InputError` when the point lists factors for a different number of layers, or when the utterance is shorter
    than one frame.
    """
    time, channels = architecture.frames(samples), architecture.encoder_embed_dim
    if time == 0:
        raise InputError(f"`samples` is {samples}; it must be at least {architecture.receptive_field}")
    features = architecture.conv_layers[-1][0]
    frames = _pooled_length(time, point.squeeze)
    pools = [
        (_pooled_length(frames, query), _pooled_length(frames, key_value))
        for query, key_value in point.pools_per_layer(architecture.encoder_layers)
    ]
    # The convolution runs over the padding on both sides too; an even kernel yields one extra frame, which is dropped.
    padded = time + 2 * (architecture.conv_pos // 2)
    if architecture.position_shift(point.squeeze):  # one group more, which is dropped
        padded += point.squeeze
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


def _pooled_length(frames: int, factor: int) -> int:
    """Return the number of groups of `factor` frames, counting a last incomplete group."""
    return -(-frames // factor)


def _extractor_layers(architecture: Architecture, samples: int) -> Iterator[int]:
    """Yield the multiply-accumulates of each convolution of the feature extractor.

    For the first convolution this includes its folded group norm, which computes the covariance of the input windows
    and scales the weights, each in two parts (see `nn.feature_extractor`).
    """
    in_channels, time = 1, samples
    for index, (channels, kernel, stride) in enumerate(architecture.conv_layers):
        time = (time - kernel) // stride + 1
        yield time * kernel * in_channels * channels
        if index == 0 and architecture.extractor_mode == "default":
            yield kernel * (time * kernel + channels * kernel + channels + time * channels)
        in_channels = channels
