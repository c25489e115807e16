"""The fastest precision of a device."""

import pytest
import torch

from w2v_compress.nn import device
from w2v_compress.processor import Processor


@pytest.mark.parametrize(("flags", "dtype"), [(["amx_bf16"], torch.bfloat16), ([], torch.float32)])
def test_cpus_with_amx_compute_in_bf16(flags: list[str], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "processor", lambda: Processor("abacus", "GenuineIntel", 143, frozenset(flags)))
    assert device.half_precision(torch.device("cpu")) == dtype


def test_other_devices_compute_in_fp32() -> None:
    assert device.half_precision(torch.device("meta")) == torch.float32
