"""`compressed_pretraining`: fairseq's `audio_pretraining` at sampled compression points (Vyas et al. 2022)."""

from dataclasses import dataclass
from typing import Any

from fairseq.tasks import register_task
from fairseq.tasks.audio_pretraining import AudioPretrainingConfig, AudioPretrainingTask
from torch import nn

from .compression import CompressionConfig, CompressionTask


@dataclass
class CompressedPretrainingConfig(CompressionConfig, AudioPretrainingConfig):
    """Settings of `audio_pretraining` and of `CompressionConfig`."""


@register_task("compressed_pretraining", dataclass=CompressedPretrainingConfig)
class CompressedPretrainingTask(CompressionTask, AudioPretrainingTask):
    """Pre-training with the criterion `wav2vec`. The points of one batch share masks and distractors."""

    models = "sew, stochastic_sew or pooled_transformer"
    _mask_length = 0

    def build_model(self, model_cfg: Any, from_checkpoint: bool = False) -> nn.Module:
        """Build the model, which tells how long masked spans are."""
        self._mask_length = model_cfg.mask_length
        return super().build_model(model_cfg, from_checkpoint)

    def min_frames(self) -> int:
        """Return the frames of the shortest audio of which the two spans that are always masked leave something."""
        return 2 * self._mask_length + 1
