"""The group norm after the first convolution, as a factor and an offset for each channel."""

import numpy as np
import numpy.typing as npt

from ....data.audio import AudioArray

EPSILON = 1e-5
FloatArray = npt.NDArray[np.float32]


def fold_group_norm(
    waveform: AudioArray, kernels: FloatArray, stride: int, weight: FloatArray, bias: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return factor and offset, each `(channels,)`: the norm of a convolution's output is output * factor + offset.

    The mean and variance of a channel over time follow from the mean mu and covariance C of the convolution's input
    windows: they are `w . mu` and `w' C w`. They are computed in fp64, as in `nn.feature_extractor.ChannelNorm`. So no
    statistics of the long output are needed, and it can be computed in pieces.

    Args:
        waveform: Samples of the whole utterance, `(samples,)`.
        kernels: Weights of the convolution without its bias, which the norm cancels, `(channels, kernel)`.
        stride: Stride of the convolution.
        weight: Weight of the norm, `(channels,)`.
        bias: Bias of the norm, `(channels,)`.
    """
    exact = kernels.astype(np.float64)
    windows = np.lib.stride_tricks.sliding_window_view(waveform.astype(np.float64), kernels.shape[1])[::stride]
    mean = windows.mean(0)
    centred = windows - mean
    covariance = centred.T @ centred / len(windows)
    variance = ((exact @ covariance) * exact).sum(1).clip(min=0)
    factor = weight / np.sqrt(variance + EPSILON)
    return factor.astype(np.float32), (bias - (exact @ mean) * factor).astype(np.float32)
