"""torch.ao, `quantize_dynamic` on the Linear layers of the model of transformers: int8, the rest in fp32."""

from . import Run, Setting, transformers

convert = transformers.convert


def load(setting: Setting) -> Run:
    """Quantize the model for torch's default int8 engine on this processor."""
    import torch

    network = transformers.load_model(setting, torch.float32)
    return transformers.make_run(
        torch.ao.quantization.quantize_dynamic(network, {torch.nn.Linear}, dtype=torch.qint8), setting
    )
