"""What a device computes fastest in."""

import torch


def half_precision(device: torch.device) -> torch.dtype:
    """The precision in which `device` computes fastest: bf16 or fp16 where it has units for them, else fp32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return torch.bfloat16
    return torch.float32
