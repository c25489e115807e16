"""torch.ao's dynamic int8 of the Linear layers of transformers' model: weights once, activations at each call."""

from . import Run, Setting, transformers

prepare = transformers.prepare


def load(setting: Setting) -> Run:
    """In torch's default engine for this processor."""
    import torch

    network = transformers.network(setting, torch.float32)
    return transformers.runner(
        torch.ao.quantization.quantize_dynamic(network, {torch.nn.Linear}, dtype=torch.qint8), setting
    )
