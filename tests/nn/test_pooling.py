"""Pooling, upsampling and the strided positional convolution against loops over single frames."""

import pytest
import torch
from torch import Tensor, nn

from w2v_compress.nn.convolution import WeightNormConvolution
from w2v_compress.nn.pooling import mean_pool, pooled_length, repeat_upsample

FACTORS = range(1, 6)
TIMES = range(1, 13)


def looped_pool(frames: Tensor, factor: int) -> Tensor:
    """Pool one utterance: `(time, channels)` -> `(ceil(time / factor), channels)`."""
    pooled = []
    for start in range(0, len(frames), factor):
        group = [frames[index] for index in range(start, min(start + factor, len(frames)))]
        pooled.append(sum(group[1:], group[0]) / len(group))
    return torch.stack(pooled)


def looped_upsample(frames: Tensor, factor: int, time: int) -> Tensor:
    return torch.stack([frames[index // factor] for index in range(time)])


@pytest.mark.parametrize("factor", FACTORS)
def test_pooling_without_padding(factor: int):
    torch.manual_seed(1)
    for time in TIMES:
        x = torch.randn(2, time, 3, dtype=torch.float64)
        expected = torch.stack([looped_pool(row, factor) for row in x])
        torch.testing.assert_close(mean_pool(x, factor, None), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("factor", FACTORS)
def test_pooling_averages_valid_frames_only(factor: int):
    """All lengths from 0 to `time` in one batch; NaN in the padding must not reach the result."""
    torch.manual_seed(1)
    for time in TIMES:
        lengths = torch.arange(time + 1)
        x = torch.randn(time + 1, time, 3, dtype=torch.float64)
        for row, length in zip(x, lengths, strict=True):
            row[length:] = torch.nan
        pooled = mean_pool(x, factor, lengths)
        assert pooled.shape == (time + 1, -(-time // factor), 3)
        if factor == 1:
            continue  # returns its input, padding included
        groups = pooled_length(lengths, factor)
        for length in range(1, time + 1):
            expected = looped_pool(x[length, :length], factor)
            assert groups[length] == len(expected)
            torch.testing.assert_close(pooled[length, : len(expected)], expected, rtol=0, atol=1e-12)
            assert (pooled[length, len(expected) :] == 0).all()
        assert (pooled[0] == 0).all()
        full = x[-1:].expand(2, -1, -1)
        all_valid = torch.full((2,), time)
        torch.testing.assert_close(
            mean_pool(full, factor, all_valid), mean_pool(full, factor, None), rtol=0, atol=1e-12
        )


@pytest.mark.parametrize("factor", FACTORS)
def test_upsampling_repeats_each_frame(factor: int):
    torch.manual_seed(1)
    for time in TIMES:
        x = torch.randn(2, -(-time // factor), 3, dtype=torch.float64)
        expected = torch.stack([looped_upsample(row, factor, time) for row in x])
        assert torch.equal(repeat_upsample(x, factor, time), expected)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("factor", [2, 3])
def test_gradients_of_pooling_and_upsampling(factor: int, padded: bool):
    """Against finite differences, with a shorter last group and with padding."""
    torch.manual_seed(1)
    lengths = torch.tensor([7, 4]) if padded else None
    x = torch.randn(2, 7, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: repeat_upsample(mean_pool(x, factor, lengths), factor, 7), (x,))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_pooling_preserves_the_dtype(dtype: torch.dtype):
    x = torch.randn(2, 7, 4)
    for lengths in (None, torch.tensor([7, 3])):
        pooled = mean_pool(x.to(dtype), 2, lengths)
        assert pooled.dtype == dtype
        torch.testing.assert_close(pooled.float(), mean_pool(x, 2, lengths), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("kernel", [1, 4, 7, 16])
def test_the_strided_convolution_returns_every_stride_th_output(kernel: int):
    """Against the convolution and weight norm of torch at stride 1, configured as in fairseq."""
    torch.manual_seed(1)
    ours = WeightNormConvolution(8, kernel, 2).double()
    nn.init.normal_(ours.bias)
    nn.init.uniform_(ours.weight_g, 0.5, 2)
    plain = nn.Conv1d(8, 8, kernel, padding=kernel // 2, groups=2).double()
    stock = nn.utils.parametrizations.weight_norm(plain, dim=2)
    stock.load_state_dict(
        {
            "bias": ours.bias,
            "parametrizations.weight.original0": ours.weight_g,
            "parametrizations.weight.original1": ours.weight_v,
        }
    )
    for time in TIMES:
        x = torch.randn(2, time, 8, dtype=torch.float64)
        whole = stock(x.transpose(1, 2))[:, :, :time].transpose(1, 2)
        for stride in FACTORS:
            torch.testing.assert_close(ours(x, stride), whole[:, ::stride], rtol=0, atol=1e-12)
