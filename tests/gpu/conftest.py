"""Tests on a GPU. W2V_COMPRESS_GPU_TESTS=cpu tries the tests themselves on a CPU."""

import os

import pytest
import torch


@pytest.fixture(scope="session")
def device() -> str:
    """The device to test: cuda where there is one, or what W2V_COMPRESS_GPU_TESTS says."""
    chosen = os.environ.get("W2V_COMPRESS_GPU_TESTS") or ("cuda" if torch.cuda.is_available() else "")
    if not chosen:
        pytest.skip("there is no GPU")
    return chosen
