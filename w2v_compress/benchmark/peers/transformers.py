"""Hugging Face transformers, eager, with the attention that it chooses itself."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from . import Logits, Run, Setting, Waveform, padded

FOLDER = "transformers"


def prepare(setting: Setting) -> None:
    """The folder that `w2v-compress export --format transformers` writes."""
    from ...interop.transformers_export import export_transformers

    if not (setting.folder / FOLDER).exists():
        export_transformers(setting.model, setting.folder / FOLDER, point=setting.point)


def load(setting: Setting) -> Run:
    """`Wav2Vec2ForCTC` in fp32 or bf16."""
    import torch

    return runner(network(setting, {"fp32": torch.float32, "bf16": torch.bfloat16}[setting.precision]), setting)


def network(setting: Setting, dtype: Any) -> Any:
    """The `Wav2Vec2ForCTC` of the folder, in this precision."""
    import torch

    torch.set_num_threads(setting.threads)
    with _hidden("torchaudio", "torchao"):
        from transformers import Wav2Vec2ForCTC

        return Wav2Vec2ForCTC.from_pretrained(setting.folder / FOLDER, dtype=dtype, local_files_only=True).eval()


def runner(model: Any, setting: Setting) -> Run:
    """Runs a `Wav2Vec2ForCTC` as its documentation says: with an attention mask only where its processor gives one.

    Models with a group norm have none, and their batches are padded with plain zeros.
    """
    import torch
    from transformers import Wav2Vec2FeatureExtractor

    folder = setting.folder / FOLDER
    masked = Wav2Vec2FeatureExtractor.from_pretrained(folder, local_files_only=True).return_attention_mask
    dtype = next(model.parameters()).dtype

    @torch.inference_mode()
    def run(waveforms: Sequence[Waveform]) -> list[Logits]:
        audio, lengths = (torch.from_numpy(array) for array in padded(waveforms))
        mixed = len(lengths.unique()) > 1
        mask = (torch.arange(audio.shape[1]) < lengths.unsqueeze(1)).long() if masked and mixed else None
        logits = model(audio.to(dtype), attention_mask=mask).logits.float().numpy()
        frames = model._get_feat_extract_output_lengths(lengths).tolist()
        return [np.ascontiguousarray(row[:count]) for row, count in zip(logits, frames, strict=True)]

    return run


@contextmanager
def _hidden(*packages: str) -> Iterator[None]:
    """Within, these are not installed, unless they have been imported.

    transformers imports both, of which it needs neither here: its start-up is not to include them, and a torchaudio of
    another build than torch, such as fairseq may bring, cannot be imported.
    """
    hidden = [package for package in packages if package not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for package in hidden:
            del sys.modules[package]
