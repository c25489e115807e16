"""Check data before training, and leave bad audio out of it: the base of the pre-training and fine-tuning tasks."""

import functools
import logging
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from fairseq.tasks import FairseqTask
from omegaconf import II
from torch import Tensor, nn

from ..compat.datasets import loading_datasets
from ..data.manifest_check import check_manifest
from ..errors import InputError
from ..nn.architecture import Architecture
from .audio_dataset import AudioDataset, BadAudio, BadAudioList, TargetDataset

logger = logging.getLogger(__name__)

PREFIX = "bad_audio/"
"""Start of the names, ending in a subset, under which the numbers of utterances that were left out are logged."""


@dataclass
class CheckedDataConfig(FairseqDataclass):
    """Settings of tasks that leave bad audio out."""

    max_bad_share: float = field(
        default=0.01,
        metadata={
            "help": "share of a subset, 0 to 1, that may be bad audio and is left out; if it is more, training ends"
        },
    )
    run_folder: str = field(
        default=II("checkpoint.save_dir"),
        metadata={"help": "folder for bad_audio.tsv; set from checkpoint.save_dir, not by users"},
    )


class CheckedDataTask(FairseqTask):
    """Mix-in for fairseq's audio tasks."""

    def __init__(self, cfg: Any, **options: Any) -> None:
        """Set up the task. Raises `InputError` for an invalid `max_bad_share`."""
        super().__init__(cfg, **options)
        if not 0 <= cfg.max_bad_share <= 1:
            raise InputError(f"task.max_bad_share is {cfg.max_bad_share}; it must be from 0 to 1")
        self._counts: Counter[str] = Counter()
        self._trained: set[str] = set()
        self._frames = Architecture().frames

    @functools.cached_property
    def _list(self) -> BadAudioList:
        return BadAudioList(Path(self.cfg.run_folder) / "bad_audio.tsv")

    def build_model(self, model_cfg: Any, from_checkpoint: bool = False) -> nn.Module:
        """Build the model, whose feature extractor tells how many frames audio has."""
        model = super().build_model(model_cfg, from_checkpoint)
        architectures = (getattr(module, "architecture", None) for module in model.modules())
        self._frames = next((found.frames for found in architectures if isinstance(found, Architecture)), self._frames)
        return model

    def load_dataset(self, split: str, task_cfg: Any = None, **options: Any) -> None:
        """Load a subset as fairseq does, after checking its files, and with datasets that leave bad audio out.

        Raises `InputError`, with file and line, for a faulty manifest, label file or dictionary.
        """
        cfg = task_cfg or self.cfg
        if cfg.get("precompute_mask_config") is not None:
            raise InputError("task.precompute_mask_config is set; the models of this task draw their own masks")
        if not cfg.get("binarized_dataset"):
            for subset in self._manifests(split):
                self.check_subset(subset)
        audio = functools.partial(AudioDataset, subset=split, frames=self._frames, min_frames=self.min_frames())
        with loading_datasets(audio, TargetDataset):
            super().load_dataset(split, task_cfg, **options)

    def _manifests(self, split: str) -> list[str]:
        """Return the manifests of a split; with multi_corpus_keys it has several, each as `corpus:manifest`."""
        if self.cfg.multi_corpus_keys is None:
            return [split]
        return [part.partition(":")[2].strip() for part in split.split(",")]

    def check_subset(self, subset: str) -> None:
        """Raise `InputError` for faults in the files of a manifest."""
        check_manifest(Path(self.cfg.data), subset)

    def min_frames(self) -> int:
        """Return the number of frames of the shortest usable audio."""
        return 1

    def train_step(
        self,
        sample: dict[str, Any],
        model: Any,
        criterion: Any,
        optimizer: Any,
        update_num: int,
        ignore_grad: bool = False,
    ) -> tuple[Tensor, Any, dict[str, Any]]:
        """Run the stock step, and list the audio that was left out of the batch."""
        loss, sample_size, log = super().train_step(sample, model, criterion, optimizer, update_num, ignore_grad)
        self._trained.add(sample.get("subset", ""))
        return loss, sample_size, log | self._report(sample, counted=not ignore_grad)

    def valid_step(self, sample: dict[str, Any], model: Any, criterion: Any) -> tuple[Tensor, Any, dict[str, Any]]:
        """Run the stock step, and list the audio that was left out of the batch."""
        loss, sample_size, log = super().valid_step(sample, model, criterion)
        return loss, sample_size, log | self._report(sample)

    def _report(self, sample: dict[str, Any], counted: bool = True) -> dict[str, int]:
        """Append the bad audio of a batch to the list, warn about it, and return its number as a value to log."""
        if "bad_audio" not in sample:  # from a binarized dataset, which does not leave any out
            return {}
        found = [BadAudio(*bad) for bad in sample["bad_audio"]]
        for bad in self._list.add(found) if found else ():
            logger.warning("%s: %s; left out", bad.path, bad.detail)
        return {f"{PREFIX}{sample['subset']}": len(found) if counted else 0}

    def begin_epoch(self, epoch: int, model: Any) -> None:
        """Count bad audio anew."""
        super().begin_epoch(epoch, model)
        self._counts.clear()

    def begin_valid_epoch(self, epoch: int, model: Any) -> None:
        """Count bad audio of the subsets for validation anew."""
        super().begin_valid_epoch(epoch, model)
        for subset in self._counts.keys() - self._trained:
            del self._counts[subset]

    def reduce_metrics(self, logging_outputs: list[dict[str, Any]], criterion: Any) -> None:
        """Log the stock metrics, and `bad_audio`: the number of utterances that were left out.

        Raises `InputError` on every rank if it is above `max_bad_share` of a subset.
        """
        super().reduce_metrics(logging_outputs, criterion)
        found: Counter[str] = Counter()
        for log in logging_outputs:
            found.update({name: int(number) for name, number in log.items() if name.startswith(PREFIX) and number})
        for name, number in found.items():
            subset = name.removeprefix(PREFIX)
            self._counts[subset] += number
            count, total = self._counts[subset], len(self.datasets[subset])
            if count > self.cfg.max_bad_share * total:
                raise InputError(
                    f"{self._list.path}: {count} of the {total} utterances of {subset} are bad, more than the share "
                    f"task.max_bad_share={self.cfg.max_bad_share}"
                )
        if found:
            metrics.log_scalar_sum("bad_audio", found.total(), round=0)
