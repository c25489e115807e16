"""Detect which precisions a device computes fast in: bf16, fp16 and int8."""

import functools
import platform

import torch

from ..processor import processor

INT8_MAX = 127
"""Largest quantized weight. -128 is unused, so that a weight and its negative have the same rounding error."""


def half_precision(device: torch.device) -> torch.dtype:
    """Return the fastest precision of `device`: bf16 or fp16 if it has units for one of them, else fp32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "cpu" and processor().has_fast_bfloat16:
        return torch.bfloat16
    return torch.float32


@functools.cache
def has_int8_units() -> bool:
    """Return whether the CPU multiplies int8 matrices exactly and fast, as x86 CPUs with VNNI or AMX do.

    Older x86 CPUs add pairs of products in 16 bits, which can overflow; one product of the largest values detects them.
    Other CPUs return False, because torch may fall back to a plain loop on them.
    """
    if platform.machine().lower() not in ("x86_64", "amd64") or not torch.backends.mkldnn.is_available():
        return False
    largest = torch.full((32, 64), INT8_MAX, dtype=torch.int8)
    return bool((torch._int_mm(largest, largest.t()) == 64 * INT8_MAX**2).all())
