"""What a device computes fastest in: bf16, fp16 or int8 units, found by asking torch or by trying."""

import functools
import platform

import torch

LARGEST_INT8 = 127  # symmetric: without -128, a weight and its negative are equally exact


def half_precision(device: torch.device) -> torch.dtype:
    """The precision in which `device` computes fastest: bf16 or fp16 where it has units for them, else fp32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return torch.bfloat16
    return torch.float32


@functools.cache
def has_int8_units() -> bool:
    """Whether the processor multiplies int8 exactly and fast, as x86 with VNNI or AMX does.

    Older x86 adds pairs of products in 16 bits, which overflow, so one product that would tells them apart. Other
    processors are taken to have none: torch may have only a plain loop there.
    """
    if platform.machine().lower() not in ("x86_64", "amd64") or not torch.backends.mkldnn.is_available():
        return False
    largest = torch.full((32, 64), LARGEST_INT8, dtype=torch.int8)
    return bool((torch._int_mm(largest, largest.t()) == 64 * LARGEST_INT8**2).all())
