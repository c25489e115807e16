"""The torch engine: the network as it was trained, on a GPU or a CPU; the reference for other engines."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ...data.audio import AudioArray
from ...errors import InputError
from ...model_file.storage import read_model
from ...nn.acoustic_model import AcousticModel
from ...nn.compression import CompressionPoint
from ...nn.convolution import FoldedPositionalConvolution, WeightNormConvolution
from ...nn.device import half_precision
from ...nn.feature_extractor import GroupNormStatistics
from ...nn.modules import replace_modules
from ..decoding.words import LogProbs
from ..windows import CHUNK_SECONDS
from .threads import set_threads

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.float32}
"""Type of the activations by precision; int8 modules quantize theirs."""


class TorchEngine:
    """Run an `AcousticModel` on its device."""

    name = "torch"

    def __init__(self, model: AcousticModel, precision: str = "fp32") -> None:
        """Run `model` as it is, on its device; `precision` is the name of its precision."""
        self.model = model
        self.precision = precision
        parameter = next(model.parameters())
        self._device, self._dtype = parameter.device, parameter.dtype
        self.device = str(parameter.device)
        self.threads = torch.get_num_threads()
        # A CPU is no faster with more, which would only take memory.
        self.batch_seconds: float | None = CHUNK_SECONDS if self._device.type == "cpu" else math.inf

    @classmethod
    def load(
        cls,
        path: Path,
        precision: str,
        device: str = "cpu",
        threads: int | None = None,
        group_norm_statistics: GroupNormStatistics = "valid",
    ) -> "TorchEngine":
        """Load the model file `path` for a `precision` that suits it.

        `threads` is passed to `set_threads`, `group_norm_statistics` to the `FeatureExtractor`. Raises `InputError` if
        the file is not a model file or the device does not exist.
        """
        set_threads(threads)
        resolved = _resolve_device(device)
        model = read_model(path).build(group_norm_statistics=group_norm_statistics)
        replace_modules(model, _folded)
        return cls(model.to(resolved, DTYPES[precision] if precision == "bf16" else None), precision)

    @torch.inference_mode()
    def log_probs(self, waveforms: Sequence[AudioArray], point: CompressionPoint) -> list[LogProbs]:
        """Run the waveforms as one batch; see `Engine.log_probs`."""
        lengths = torch.tensor([len(samples) for samples in waveforms])
        padded = torch.zeros(len(waveforms), int(lengths.max()))
        for row, samples in zip(padded, waveforms, strict=True):
            row[: len(samples)] = torch.from_numpy(samples)
        mixed = len(set(lengths.tolist())) > 1
        valid_lengths = lengths.to(self._device) if mixed else None
        logits, frames = self.model(padded.to(self._device, self._dtype), valid_lengths, point)
        exact = logits if logits.dtype == torch.float64 else logits.float()
        log_probs = exact.log_softmax(-1).float().cpu().numpy()
        return [np.ascontiguousarray(row[:count]) for row, count in zip(log_probs, frames.tolist(), strict=True)]

    def keep_points(self, count: int) -> None:
        """Do nothing: one network computes all points."""


def _folded(_name: str, module: nn.Module) -> nn.Module | None:
    """Fold the weight norm of the positional convolution, which would be computed again in each call."""
    if isinstance(module, WeightNormConvolution):
        return FoldedPositionalConvolution(module.effective_weight().detach(), module.bias, module.groups)
    return None


def has_fast_bfloat16(device: str) -> bool:
    """Return whether `device` computes fastest in bf16; raise `InputError` if it does not exist."""
    return half_precision(_resolve_device(device)) == torch.bfloat16


def _resolve_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise InputError(f"device {name!r} is unknown; it must be cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device {name!r} does not exist; this machine has {torch.cuda.device_count()} CUDA devices")
    return device
