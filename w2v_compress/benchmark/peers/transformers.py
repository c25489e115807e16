"""Hugging Face transformers, `Wav2Vec2ForCTC` in fp32 or bf16: eager, with its default attention implementation."""

import json
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...extras import replacing_modules
from . import Logits, Run, Setting, Waveform, pad, trim, valid_samples

FOLDER = "transformers"


def convert(setting: Setting) -> None:
    """Write the folder of `w2v-compress export --format transformers`."""
    from ...interop.transformers_export import export_transformers

    if not (setting.folder / FOLDER).exists():
        export_transformers(setting.model, setting.folder / FOLDER, point=setting.point)


def load(setting: Setting) -> Run:
    """Load the model in the precision of `setting`."""
    import torch

    return make_run(load_model(setting, {"fp32": torch.float32, "bf16": torch.bfloat16}[setting.precision]), setting)


def load_model(setting: Setting, dtype: Any) -> Any:
    """Load the converted `Wav2Vec2ForCTC` with parameters of `dtype`."""
    import torch

    torch.set_num_threads(setting.threads)
    with hiding_unused_packages():
        from transformers import Wav2Vec2ForCTC

        return Wav2Vec2ForCTC.from_pretrained(setting.folder / FOLDER, dtype=dtype, local_files_only=True).eval()


def hiding_unused_packages() -> AbstractContextManager[None]:
    """Hide packages that transformers imports although the model does not need them.

    They then do not count in its start-up time, and a torchaudio that was built for another torch, which cannot be
    imported, is left alone.
    """
    return replacing_modules({name: None for name in ("torchaudio", "torchao") if name not in sys.modules})


def make_run(model: Any, setting: Setting) -> Run:
    """Return the function that runs a `Wav2Vec2ForCTC`."""
    import torch

    inputs = Inputs.read(setting.folder / FOLDER)
    dtype = next(model.parameters()).dtype

    @torch.inference_mode()
    def run(waveforms: Sequence[Waveform]) -> list[Logits]:
        batch = inputs.batch(waveforms)
        mask = torch.from_numpy(batch.mask) if batch.mask is not None and batch.has_padding else None
        logits = model(torch.from_numpy(batch.audio).to(dtype), attention_mask=mask).logits.float().numpy()
        return trim(logits, batch.frames)

    return run


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Inputs of a `Wav2Vec2ForCTC` for several waveforms."""

    audio: npt.NDArray[np.float32]
    """Waveforms, padded with zeros (batch, samples)."""
    mask: npt.NDArray[np.int64] | None
    """1 for audio and 0 for padding (batch, samples), or None for a model that takes no attention mask."""
    frames: npt.NDArray[np.int64]
    """Valid frames of the output (batch,)."""
    has_padding: bool

    def named(self) -> dict[str, npt.NDArray[Any]]:
        """Return audio and mask by the names of the arguments."""
        return {"input_values": self.audio} | ({} if self.mask is None else {"attention_mask": self.mask})


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """How the documentation of transformers recommends to make batches for a model; needs no transformers.

    The model gets an attention mask only if its feature extractor returns one. Models with a group norm get none: their
    batches are padded with zeros.
    """

    masked: bool
    strides: tuple[tuple[int, int], ...]
    """Kernel and stride of each convolution of the feature extractor."""

    @classmethod
    def read(cls, folder: Path) -> "Inputs":
        """Read the configuration of a converted model."""
        config, extractor = (
            json.loads((folder / name).read_text(encoding="utf-8"))
            for name in ("config.json", "preprocessor_config.json")
        )
        return cls(
            masked=extractor["return_attention_mask"],
            strides=tuple(zip(config["conv_kernel"], config["conv_stride"], strict=True)),
        )

    def batch(self, waveforms: Sequence[Waveform]) -> Batch:
        """Pad waveforms to one batch."""
        audio, lengths = pad(waveforms)
        frames = lengths
        for kernel, stride in self.strides:
            frames = (frames - kernel) // stride + 1
        mask = valid_samples(lengths, audio.shape[1]) if self.masked else None
        return Batch(audio=audio, mask=mask, frames=frames, has_padding=bool(lengths.min() < audio.shape[1]))


def example(inputs: Inputs) -> dict[str, Any]:
    """Return tensors to trace a `Wav2Vec2ForCTC` with: one second of silence, and a mask if the model takes one."""
    import torch

    return {
        name: torch.from_numpy(array) for name, array in inputs.batch([np.zeros(16_000, np.float32)]).named().items()
    }
