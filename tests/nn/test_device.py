"""The fastest precision of a device."""

import pytest
import torch

from w2v_compress.nn import device


def test_cpus_with_amx_compute_in_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "has_amx", lambda: True)
    assert device.half_precision(torch.device("cpu")) == torch.bfloat16


def test_other_devices_compute_in_fp32() -> None:
    assert device.half_precision(torch.device("meta")) == torch.float32
