"""Hugging Face transformers, `Wav2Vec2ForCTC` in fp32 or bf16: eager, with its default attention implementation."""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...extras import replacing_modules
from . import Logits, Run, Setting, Waveform, pad

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
    # transformers imports these although the model does not need them. Hidden, they do not count in its start-up time,
    # and a torchaudio that was built for another torch is not imported, which would fail.
    with replacing_modules({name: None for name in ("torchaudio", "torchao") if name not in sys.modules}):
        from transformers import Wav2Vec2ForCTC

        return Wav2Vec2ForCTC.from_pretrained(setting.folder / FOLDER, dtype=dtype, local_files_only=True).eval()


def make_run(model: Any, setting: Setting) -> Run:
    """Return the function that runs a `Wav2Vec2ForCTC` as its documentation recommends.

    The model gets an attention mask only if its feature extractor returns one. Models with a group norm get none: their
    batches are padded with zeros.
    """
    import torch
    from transformers import Wav2Vec2FeatureExtractor

    folder = setting.folder / FOLDER
    masked = Wav2Vec2FeatureExtractor.from_pretrained(folder, local_files_only=True).return_attention_mask
    dtype = next(model.parameters()).dtype

    @torch.inference_mode()
    def run(waveforms: Sequence[Waveform]) -> list[Logits]:
        audio, lengths = (torch.from_numpy(array) for array in pad(waveforms))
        mixed = len(lengths.unique()) > 1
        mask = (torch.arange(audio.shape[1]) < lengths.unsqueeze(1)).long() if masked and mixed else None
        logits = model(audio.to(dtype), attention_mask=mask).logits.float().numpy()
        frames = model._get_feat_extract_output_lengths(lengths).tolist()
        return [np.ascontiguousarray(row[:count]) for row, count in zip(logits, frames, strict=True)]

    return run
