"""`w2v-compress prepare`: a corpus to the manifests, labels and audio that fairseq and our evaluation read."""

import dataclasses
import math
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from ..errors import InputError
from ..files import replacing
from ..progress import Progress, no_progress
from .conversion import AudioFormat, Converter, Rejection
from .corpora import CORPORA, Recording, join_recordings
from .manifest import Utterance, fits_manifest, write_manifest
from .units import UnitKind, Units

MAX_SECONDS = 40.0
"""LibriSpeech's longest utterance lasts 35.2 s."""


@dataclass(frozen=True)
class SplitReport:
    """What a split came to."""

    utterances: int
    hours: float


@dataclass(frozen=True)
class PrepareReport:
    """What `prepare` did."""

    out: str
    splits: dict[str, SplitReport]
    rejected: dict[str, int]
    """Refused utterances by reason."""

    def closing_line(self) -> str:
        """One line: the utterances and hours of each split, and how many utterances were refused, by reason."""
        kept = ", ".join(f"{name} {split.utterances} ({split.hours:.2f} h)" for name, split in self.splits.items())
        return f"{self.out}: {kept}; {_refused(self.rejected)}"


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
    progress: Progress = no_progress,
) -> PrepareReport:
    """The `corpus` (csv, librispeech, fsdd) at `source` as fairseq manifests in `out`; what is unfit is refused.

    units: `letter` or `sentencepiece`; the latter are learnt from the splits named train..., or from all.
    vocab_size: how many sentencepiece pieces to learn.
    dictionary: a `dict.ltr.txt` (or `dict.spm.txt` with `spm.model` beside it) whose units to use instead.
    max_seconds: longer utterances are refused.
    audio_format: `flac` or `wav`, of the audio in `out`/audio. 16 kHz mono WAV and FLAC files are used where they lie.
    join: for fsdd, `3:7` joins 3 to 7 recordings of one speaker, within a split, to a string of digits.
    join_count: how many strings, over all splits; by default each recording is used about once.
    seed: of the joining.
    strict: fail, and write no manifest, if anything is refused.
    workers: threads; by default one for each core that this process may use.
    progress: counts recordings as they are converted.

    Raises `InputError` for a wrong argument, a corpus that cannot be read, a split of which nothing is left, and an
    `out` that cannot be written. The same corpus and arguments give the same files.
    """
    _check_options(units, vocab_size, dictionary, max_seconds, audio_format, workers)
    lengths = _join_lengths(corpus, join, join_count)
    out = Path(os.path.abspath(out))
    recordings = _read_corpus(corpus, Path(source))
    splits = sorted({recording.split for recording in recordings if _is_split_name(recording.split)})
    recordings, rejections = _refuse_rows(recordings)
    if lengths is not None:
        recordings = join_recordings(recordings, lengths, count=join_count, seed=seed)
    unit_set = _choose_units(recordings, units, vocab_size, dictionary)
    recordings, unwritable = _refuse_texts(recordings, unit_set)
    recordings.sort(key=lambda recording: (recording.split, str(recording)))
    _check_folder(out, recordings, splits, unit_set)

    converter = Converter(out / "audio", unit_set, max_seconds, audio_format)
    kept: dict[str, list[Utterance]] = {split: [] for split in splits}
    for recording, outcome in zip(recordings, converter.run(recordings, workers, progress=progress), strict=True):
        if isinstance(outcome, Rejection):
            rejections.append(outcome)
        else:
            kept[recording.split].append(outcome)
    return _finish(out, kept, rejections + unwritable, unit_set, strict=strict)


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
    learns = units == "sentencepiece" and dictionary is None
    if vocab_size is not None and not learns:
        raise InputError("vocab_size goes with units sentencepiece and without a dictionary")
    if learns and (vocab_size is None or vocab_size < 1):
        raise InputError(f"units sentencepiece need a vocab_size of at least 1 (or a dictionary); it is {vocab_size}")


def _join_lengths(corpus: str, join: str | None, join_count: int | None) -> tuple[int, int] | None:
    """The fewest and the most recordings of a string that `join`, such as 3:7, asks for."""
    if join is None:
        if join_count is not None:
            raise InputError("join_count goes with join")
        return None
    if corpus != "fsdd":
        raise InputError("join goes with the corpus fsdd")
    match = re.fullmatch(r"(\d{1,3}):(\d{1,3})", join)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise InputError(f"join is {join!r}; it must be the fewest and the most recordings of a string, such as 3:7")
    if join_count is not None and join_count < 1:
        raise InputError(f"join_count is {join_count}; it must be at least 1")
    return int(match[1]), int(match[2])


def _read_corpus(corpus: str, source: Path) -> list[Recording]:
    if corpus not in CORPORA:
        raise InputError(f"corpus {corpus!r} is not known; it must be one of {', '.join(CORPORA)}")
    if not source.exists():
        raise InputError(f"{source}: no such file or folder")
    recordings = CORPORA[corpus](source)
    if not recordings:
        raise InputError(f"{source}: holds no utterances")
    return recordings


def _is_split_name(name: str) -> bool:
    """Whether `name` can name files, and fairseq's subsets: it splits those at commas and colons."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name) is not None and name != "rejected"


def _refuse_rows(recordings: Sequence[Recording]) -> tuple[list[Recording], list[Rejection]]:
    """What can be told without units or audio: repeated files, splits that cannot be named, missing text."""
    kept, rejections = [], []
    seen: set[str] = set()
    for recording in recordings:
        path = os.path.abspath(recording.parts[0])
        if len(recording.parts) == 1 and path in seen:
            rejections.append(Rejection(str(recording), "duplicate path", "is listed a second time"))
        elif not _is_split_name(recording.split):
            detail = (
                f"its split is {recording.split!r}; letters, digits, '_', '.' and '-' are allowed, 'rejected' is not"
            )
            rejections.append(Rejection(str(recording), "invalid split name", detail))
        elif not recording.text.strip():
            rejections.append(Rejection(str(recording), "empty text", "has no text"))
        else:
            kept.append(recording)
        seen.add(path)
    return kept, rejections


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


def _refuse_texts(recordings: Sequence[Recording], units: Units) -> tuple[list[Recording], list[Rejection]]:
    """Texts in the case of the units, and the refusal of those that the units cannot write."""
    kept, rejections = [], []
    for recording in recordings:
        text = units.normalize_text(recording.text)
        if unknown := units.unknown_characters(text):
            detail = f"its text holds {' '.join(unknown)}, not among the units"
            rejections.append(Rejection(str(recording), "characters outside the units", detail))
        else:
            kept.append(dataclasses.replace(recording, text=text))
    return kept, rejections


def _check_folder(out: Path, recordings: Sequence[Recording], splits: Sequence[str], units: Units) -> None:
    """Makes `out`; `InputError` when it cannot be, or when writing there would spoil what is there already."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: the folder cannot be made: {error.strerror or error}") from None
    if not fits_manifest(out / "audio.flac"):
        raise InputError(
            f"{str(out)!r}: choose a folder without odd spaces, tabs or line ends; a manifest cannot hold them"
        )
    audio = (out / "audio").resolve()
    for folder in {part.parent for recording in recordings for part in recording.parts}:
        if folder.resolve().is_relative_to(audio):
            raise InputError(f"{folder}: the corpus keeps its audio where prepare would write; choose another OUT")
    others = {path.stem for path in out.glob("*.tsv")} - {*splits, "rejected"}
    dictionary = out / units.dictionary_name
    if others and dictionary.is_file() and Units.read_dictionary(dictionary, units.kind) != units:
        raise InputError(
            f"{dictionary}: the split {min(others)!r} there has other units; "
            "prepare with this dictionary, or choose another OUT"
        )


def _finish(
    out: Path, kept: Mapping[str, list[Utterance]], rejections: Sequence[Rejection], units: Units, *, strict: bool
) -> PrepareReport:
    rejected = dict(Counter(rejection.reason for rejection in rejections).most_common())
    rows = sorted((rejection.path, rejection.reason, rejection.detail) for rejection in rejections)
    with replacing(out / "rejected.tsv") as temporary:
        lines = ["\t".join(" ".join(cell.split()) for cell in row) for row in [("path", "reason", "detail"), *rows]]
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", errors="backslashreplace")
    if strict and rejections:
        raise InputError(
            f"{out / 'rejected.tsv'}: {_refused(rejected)}; --strict allows none, so no manifest is written"
        )
    empty = [split for split, utterances in kept.items() if not utterances]
    if empty or not kept:
        what = f"nothing is left of the split {empty[0]!r}" if empty else "nothing is left"
        raise InputError(f"{out / 'rejected.tsv'}: {what}; {_refused(rejected)}; no manifest is written")
    units.write_dictionary(out / units.dictionary_name)
    for split, utterances in kept.items():
        write_manifest(out, split, utterances, units)
    hours = {split: sum(utterance.seconds for utterance in utterances) / 3600 for split, utterances in kept.items()}
    reports = {split: SplitReport(len(utterances), hours[split]) for split, utterances in kept.items()}
    return PrepareReport(str(out), reports, rejected)


def _refused(rejected: Mapping[str, int]) -> str:
    if not rejected:
        return "none refused"
    return f"{sum(rejected.values())} refused ({', '.join(f'{count} {reason}' for reason, count in rejected.items())})"
