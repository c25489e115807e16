"""`compressed_pretraining`: fairseq's `audio_pretraining` at sampled compression points (Vyas et al. 2022)."""

from dataclasses import dataclass

from fairseq.tasks import register_task
from fairseq.tasks.audio_pretraining import AudioPretrainingConfig, AudioPretrainingTask

from .compression import CompressionConfig, CompressionTask


@dataclass
class CompressedPretrainingConfig(CompressionConfig, AudioPretrainingConfig):
    """Settings of `audio_pretraining` and of `CompressionConfig`."""


@register_task("compressed_pretraining", dataclass=CompressedPretrainingConfig)
class CompressedPretrainingTask(CompressionTask, AudioPretrainingTask):
    """Pre-training with the criterion `wav2vec`. The points of one batch share masks and distractors."""

    models = "sew, stochastic_sew or pooled_transformer"
