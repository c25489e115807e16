"""torchao's dynamic int8 of the Linear layers of transformers' model, eager: its successor to torch.ao."""

from . import Run, Setting, transformers

prepare = transformers.prepare


def load(setting: Setting) -> Run:
    """Quantized in place; a scale for each row of the activations."""
    import torch
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    network = transformers.network(setting, torch.float32)
    quantize_(network, Int8DynamicActivationInt8WeightConfig())
    return transformers.runner(network, setting)
