"""Implement `w2v-compress prepare`: convert a corpus to manifests, labels and audio for training and evaluation."""

import dataclasses
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from ..errors import InputError
from ..progress import Progress, no_progress
from ..shards import Shard
from .conversion import AudioFormat, Converter, Rejection
from .corpora import CORPORA, Recording, join_recordings
from .manifest import Utterance, fits_manifest, is_split_name
from .prepare_outputs import PrepareReport, write_outputs
from .prepare_shards import convert_shard
from .units import UnitKind, Units

MAX_SECONDS = 40.0
"""Default for the longest accepted duration, in seconds; the longest utterance of LibriSpeech lasts 35.2 s."""


def prepare(
    corpus: str,
    source: Path,
    out: Path,
    *,
    units: UnitKind = "letter",
    vocab_size: int | None = None,
    dictionary: Path | None = None,
    max_seconds: float = MAX_SECONDS,
    audio_format: AudioFormat = "flac",
    join: str | None = None,
    join_count: int | None = None,
    seed: int = 0,
    strict: bool = False,
    workers: int | None = None,
    shard: Shard | None = None,
    progress: Progress = no_progress,
) -> PrepareReport:
    """Convert a corpus to fairseq manifests, labels and 16 kHz mono audio. Invalid utterances are rejected.

    Equal corpora and arguments give equal files.

    Args:
        corpus: Layout of the corpus: `csv`, `librispeech` or `fsdd`.
        source: Folder of the corpus, or the CSV file.
        out: Folder for the manifests; converted audio is written to `out`/audio.
        units: Output units, `letter` or `sentencepiece`. Sentencepiece pieces are trained on the splits whose names
            start with `train`, or on all splits if there are none.
        vocab_size: Number of sentencepiece pieces to train.
        dictionary: Existing `dict.ltr.txt`, or `dict.spm.txt` with `spm.model` beside it, to use instead.
        max_seconds: Longest accepted duration in seconds.
        audio_format: Format of converted audio, `flac` or `wav`. Mono WAV and FLAC files at 16 kHz are used in place.
        join: Fewest and most recordings to join, such as `3:7`; only for fsdd, within a speaker and split.
        join_count: Number of joined recordings in the splits whose names start with `train`. In the others, and by
            default in all, each recording is used once.
        seed: Random seed for joining recordings.
        strict: Whether to fail, without writing a manifest, if any utterance is rejected.
        workers: Number of threads; by default one per available core.
        shard: Convert only this part of the recordings, or the rest of it if a run was killed; `merge_shards` writes
            the manifests once all parts are there.
        progress: Called with the number of converted recordings and their total.

    Returns:
        The size of each split, and the number of rejected utterances by reason.

    Raises:
        InputError: An argument is invalid, the corpus cannot be read, a split has no valid utterance, or `out` cannot
            be written.
    """
    _check_options(units, vocab_size, dictionary, max_seconds, audio_format, workers)
    lengths = _join_lengths(corpus, join, join_count)
    out = Path(os.path.abspath(out))
    recordings = _read_corpus(corpus, Path(source))
    splits = sorted({recording.split for recording in recordings if is_split_name(recording.split)})
    recordings, rejections = _reject_rows(recordings)
    if lengths is not None:
        recordings = join_recordings(recordings, lengths, count=join_count, seed=seed)
    unit_set = _choose_units(recordings, units, vocab_size, dictionary)
    recordings, outside_units = _reject_texts(recordings, unit_set)
    recordings.sort(key=lambda recording: (recording.split, str(recording)))
    _create_output_folder(out, recordings, splits, unit_set)
    rejections += outside_units

    converter = Converter(out / "audio", unit_set, max_seconds, audio_format)
    if shard is not None:
        job = {"verb": "prepare", "out": str(out), "units": unit_set.to_dict(), "splits": splits, "strict": strict}
        return convert_shard(shard, job, converter, recordings, rejections, workers, progress)
    accepted: dict[str, list[Utterance]] = {split: [] for split in splits}
    outcomes = converter.run(recordings, converter.targets(recordings), workers)
    for count, (recording, outcome) in enumerate(zip(recordings, outcomes, strict=True), start=1):
        if isinstance(outcome, Rejection):
            rejections.append(outcome)
        else:
            accepted[recording.split].append(outcome)
        progress(count, len(recordings))
    return write_outputs(out, accepted, rejections, unit_set, strict=strict)


def _check_options(
    units: str,
    vocab_size: int | None,
    dictionary: Path | None,
    max_seconds: float,
    audio_format: str,
    workers: int | None,
) -> None:
    for name, value, kinds in (("units", units, UnitKind), ("audio_format", audio_format, AudioFormat)):
        if value not in get_args(kinds):
            raise InputError(f"{name} is {value!r}; it must be one of {', '.join(get_args(kinds))}")
    if not (math.isfinite(max_seconds) and max_seconds > 0):
        raise InputError(f"max_seconds is {max_seconds}; it must be more than 0")
    if workers is not None and workers < 1:
        raise InputError(f"workers is {workers}; it must be at least 1")
    trains_units = units == "sentencepiece" and dictionary is None
    if vocab_size is not None and not trains_units:
        raise InputError("vocab_size is allowed only with units=sentencepiece and without a dictionary")
    if trains_units and (vocab_size is None or vocab_size < 1):
        raise InputError(f"vocab_size is {vocab_size}; units=sentencepiece need at least 1, or a dictionary")


def _join_lengths(corpus: str, join: str | None, join_count: int | None) -> tuple[int, int] | None:
    """Parse `join`, such as 3:7, as the fewest and most recordings to join; None if it is None."""
    if join is None:
        if join_count is not None:
            raise InputError("join_count is allowed only with join")
        return None
    if corpus != "fsdd":
        raise InputError("join is allowed only with the corpus fsdd")
    match = re.fullmatch(r"(\d{1,3}):(\d{1,3})", join)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise InputError(f"join is {join!r}; it must be the fewest and most recordings to join, such as 3:7")
    if join_count is not None and join_count < 1:
        raise InputError(f"join_count is {join_count}; it must be at least 1")
    return int(match[1]), int(match[2])


def _read_corpus(corpus: str, source: Path) -> list[Recording]:
    if corpus not in CORPORA:
        raise InputError(f"corpus is {corpus!r}; it must be one of {', '.join(CORPORA)}")
    if not source.exists():
        raise InputError(f"{source}: no such file or folder")
    recordings = CORPORA[corpus](source)
    if not recordings:
        raise InputError(f"{source}: has no utterances")
    return recordings


def _reject_rows(recordings: Sequence[Recording]) -> tuple[list[Recording], list[Rejection]]:
    """Reject repeated files, invalid split names and empty texts, which need neither units nor audio."""
    accepted, rejections = [], []
    seen: set[str] = set()
    for recording in recordings:
        path = os.path.abspath(recording.parts[0])
        if len(recording.parts) == 1 and path in seen:
            rejections.append(Rejection(str(recording), "duplicate path", "is listed a second time"))
        elif not is_split_name(recording.split):
            detail = (
                f"its split is {recording.split!r}; letters, digits, '_', '.' and '-' are allowed, 'rejected' is not"
            )
            rejections.append(Rejection(str(recording), "invalid split name", detail))
        elif not recording.text.strip():
            rejections.append(Rejection(str(recording), "empty text", "has no text"))
        else:
            accepted.append(recording)
        seen.add(path)
    return accepted, rejections


def _choose_units(
    recordings: Sequence[Recording], kind: UnitKind, vocab_size: int | None, dictionary: Path | None
) -> Units:
    if dictionary is not None:
        return Units.read_dictionary(Path(dictionary), kind)
    letters = Units.letters()
    if vocab_size is None:
        return letters
    train = [recording for recording in recordings if recording.split.startswith("train")] or recordings
    return Units.train_sentencepiece([letters.normalize_text(recording.text) for recording in train], vocab_size)


def _reject_texts(recordings: Sequence[Recording], units: Units) -> tuple[list[Recording], list[Rejection]]:
    """Normalize the texts, and reject those with characters outside the units."""
    accepted, rejections = [], []
    for recording in recordings:
        text = units.normalize_text(recording.text)
        if unknown := units.unknown_characters(text):
            detail = f"its text has {' '.join(unknown)}, not among the units"
            rejections.append(Rejection(str(recording), "characters outside the units", detail))
        else:
            accepted.append(dataclasses.replace(recording, text=text))
    return accepted, rejections


def _create_output_folder(out: Path, recordings: Sequence[Recording], splits: Sequence[str], units: Units) -> None:
    """Create `out`. Raises `InputError` if that fails, or if the output would damage files that are already there."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: the folder cannot be created: {error.strerror or error}") from None
    if not fits_manifest(out / "audio.flac"):
        raise InputError(
            f"{str(out)!r}: choose a folder without odd spaces, tabs or line ends; a manifest cannot hold them"
        )
    audio = (out / "audio").resolve()
    for folder in {part.parent for recording in recordings for part in recording.parts}:
        if folder.resolve().is_relative_to(audio):
            raise InputError(f"{folder}: the corpus has audio in the output folder; choose another OUT")
    others = {path.stem for path in out.glob("*.tsv")} - {*splits, "rejected"}
    dictionary = out / units.dictionary_name
    if others and dictionary.is_file() and Units.read_dictionary(dictionary, units.kind) != units:
        raise InputError(
            f"{dictionary}: the split {min(others)!r} there has other units; use this dictionary, or choose another OUT"
        )
