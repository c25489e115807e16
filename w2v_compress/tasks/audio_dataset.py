"""fairseq datasets that leave bad audio out of batches, instead of ending the training."""

import itertools
import logging
import os
import time
from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from fairseq.data import AddTargetDataset
from fairseq.data.audio.audio_utils import parse_path, read_from_stored_zip
from fairseq.data.audio.raw_audio_dataset import FileAudioDataset

from ..data.audio import read_unconverted
from ..data.lines import Lines
from ..data.units import ctc_frames
from ..errors import AudioError, InputError

logger = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
"""Wait before a file is read again after a system error, since network drives fail for moments."""


class BadAudio(NamedTuple):
    """An utterance that was left out of a batch."""

    path: str
    reason: str
    """Kind of problem in one or two words."""
    detail: str
    """What is wrong."""


class LeavesOutBadAudio:
    """Mix-in for datasets whose items have the audio `source`, or None and the `BadAudio` as `bad_audio`.

    A batch of which nothing is left gets the next usable utterance of the manifest, so that every rank takes part in
    every update.
    """

    def collater(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate the usable samples, and list the `BadAudio` of the others in the entry `bad_audio`.

        Without samples, the batch is empty: fairseq fills the shards of ranks that have fewer batches with those.
        """
        if not samples:
            return {}
        usable = [sample for sample in samples if sample["source"] is not None]
        if not usable:
            usable = [self._next_usable(samples[-1]["id"])]
        batch: dict[str, Any] = super().collater(usable)  # type: ignore[misc]
        batch["bad_audio"] = [sample["bad_audio"] for sample in samples if "bad_audio" in sample]
        return batch

    def _next_usable(self, index: int) -> dict[str, Any]:
        count = len(self)  # type: ignore[arg-type]
        for step in range(1, count):
            sample = self[(index + step) % count]  # type: ignore[index]
            if sample["source"] is not None:
                return sample
        raise InputError("no utterance of the manifest is usable; bad_audio.tsv in the run folder has the reasons")


class AudioDataset(LeavesOutBadAudio, FileAudioDataset):
    """`FileAudioDataset` that reads through this package's reader; `min_frames` is the shortest usable audio."""

    def __init__(
        self,
        manifest_path: str,
        sample_rate: int,
        *,
        subset: str,
        frames: Callable[[int], int],
        min_frames: int,
        min_sample_size: int | None = None,
        num_buckets: int = 0,
        text_compression_level: Any = None,  # lines stay on disk
        **options: Any,
    ) -> None:
        """Load a manifest as the stock class does; arguments and attributes are those of the stock class."""
        super(FileAudioDataset, self).__init__(sample_rate=sample_rate, min_sample_size=min_sample_size, **options)
        self._lines = Lines(Path(manifest_path))
        self.root_dir = self._lines[0].strip()
        numbers = (line.rpartition("\t")[2] for line in itertools.islice(self._lines, 1, None))
        sizes = np.fromiter(map(int, numbers), np.int64, len(self._lines) - 1)
        kept = sizes >= (min_sample_size or 0)
        self.sizes = sizes[kept]
        self._places = np.flatnonzero(kept) + 1
        self.skipped_indices = set(np.flatnonzero(~kept).tolist())
        logger.info("loaded %d, skipped %d samples", len(self.sizes), len(self.skipped_indices))
        self.set_bucket_info(num_buckets)
        self.subset = subset
        self.frames = frames
        """Computes the number of output frames from the number of samples."""
        self.min_frames = min_frames

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return the audio at `index`, or None and the reason if it is bad."""
        name = self._path(index)
        try:
            audio = self._read(name, int(self.sizes[index]))
        except AudioError as error:
            return {"id": index, "source": None, "bad_audio": BadAudio(name, error.reason, error.detail)}
        return {"id": index, "source": self.postprocess(torch.from_numpy(audio), self.sample_rate)}

    def collater(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate the usable samples; the entry `subset` is the name of the subset."""
        batch = super().collater(samples)
        return batch and batch | {"subset": self.subset}

    def _path(self, index: int) -> str:
        return os.path.join(self.root_dir, self._lines[self._places[index]].rpartition("\t")[0])

    def _read(self, name: str, samples: int) -> Any:
        """Read a file, or the part `path.zip:offset:bytes` of an uncompressed zip archive."""

        def read() -> Any:
            try:
                path, part = parse_path(name)
                file = BytesIO(read_from_stored_zip(path, *part)) if part else Path(path)
            except (AssertionError, ValueError):
                detail = "is neither a file nor the part path.zip:offset:bytes of an archive"
                raise AudioError(name, "unreadable", detail) from None
            return read_unconverted(file, name=name, rate=self.sample_rate, samples=samples)

        try:
            audio = read()
        except (AudioError, OSError) as error:
            if not isinstance(error, OSError) and not isinstance(error.__context__, OSError):
                raise
            time.sleep(RETRY_SECONDS)
            try:
                audio = read()
            except OSError as again:
                raise AudioError(name, "unreadable", f"cannot be read: {again.strerror or again}") from None
        frames = self.frames(len(audio))
        if frames < self.min_frames or len(audio) < (self.min_sample_size or 0):
            detail = f"has {len(audio)} samples and {frames} frames; at least {self.min_frames} frames are needed"
            raise AudioError(name, "too short", detail)
        return audio


class TargetDataset(LeavesOutBadAudio, AddTargetDataset):
    """`AddTargetDataset` that leaves out audio with fewer frames than its labels need (Graves et al. 2006)."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return audio and labels at `index`; the audio is None if it is too short for them."""
        item: dict[str, Any] = super().__getitem__(index)
        if item["source"] is None:
            return item
        frames, needed = self.dataset.frames(len(item["source"])), ctc_frames(item["label"].tolist())
        if frames < needed:
            detail = f"has {frames} frames; its {len(item['label'])} labels need {needed}"
            item |= {"source": None, "bad_audio": BadAudio(self.dataset._path(index), "too short", detail)}
        return item


class BadAudioList:
    """The file `bad_audio.tsv` of a run: each utterance that was left out, once, with the reason.

    Ranks append to the same file, each line in one write.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listed: set[str] = set()
        self._read = 0  # bytes

    def add(self, found: Iterable[BadAudio]) -> list[BadAudio]:
        """Append those of `found` that are not listed yet, and return them."""
        found = [bad for bad in found if bad.path not in self._listed]
        if not found:
            return []
        self._read_new_lines()
        new = [bad for bad in dict.fromkeys(found) if bad.path not in self._listed]
        lines = ["\t".join(" ".join(cell.split()) for cell in bad) for bad in new]
        if new and not self._read:
            lines.insert(0, "path\treason\tdetail")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            for line in lines:
                os.write(descriptor, f"{line}\n".encode(errors="backslashreplace"))
        finally:
            os.close(descriptor)
        self._listed.update(bad.path for bad in new)
        return new

    def _read_new_lines(self) -> None:
        """Read what other ranks, or an earlier part of the run, have appended."""
        if self.path.exists():
            with self.path.open("rb") as file:
                file.seek(self._read)
                content = file.read()
            self._read += len(content)
            self._listed.update(line.split("\t")[0] for line in content.decode(errors="replace").splitlines())
