"""torchao, `quantize_` on the Linear layers of the model of transformers, eager: dynamic int8, the rest in fp32."""

from . import Run, Setting, transformers

convert = transformers.convert


def load(setting: Setting) -> Run:
    """Quantize the model in place, with one scale for each row of the activations."""
    import torch
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    network = transformers.load_model(setting, torch.float32)
    quantize_(network, Int8DynamicActivationInt8WeightConfig())
    return transformers.make_run(network, setting)
