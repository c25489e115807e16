"""`compressed_pretraining`: fairseq's `audio_pretraining` at sampled points of compression (Vyas et al. 2022)."""

from dataclasses import dataclass

from fairseq.tasks import register_task
from fairseq.tasks.audio_pretraining import AudioPretrainingConfig, AudioPretrainingTask

from .compression import CompressionConfig, CompressionTask


@dataclass
class CompressedPretrainingConfig(CompressionConfig, AudioPretrainingConfig):
    """The stock task's fields and those of `CompressionConfig`."""


@register_task("compressed_pretraining", dataclass=CompressedPretrainingConfig)
class CompressedPretrainingTask(CompressionTask, AudioPretrainingTask):
    """For the criterion `wav2vec`. The points of one batch share its masks and distractors."""

    models = "sew, stochastic_sew or pooled_transformer"
