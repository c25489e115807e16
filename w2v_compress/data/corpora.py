"""Corpora as they are published: one reader each, from a folder to its recordings with their text and split."""

import csv
import itertools
import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError

DIGITS = ("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE")
PAUSES = (0.03, 0.25)
"""Shortest and longest silence, in seconds, between two recordings that are joined."""

_COLUMNS = ("path", "text", "split", "speaker")


@dataclass(frozen=True)
class Recording:
    """One utterance of a corpus, nothing about it checked yet."""

    parts: tuple[Path, ...]
    """Audio files, one after the other: a single one unless recordings were joined."""
    text: str
    split: str
    pauses: tuple[float, ...] = ()
    """Seconds of silence before each part but the first."""
    name: str = ""
    """What joined recordings are called."""
    speaker: str = ""
    """Whose recordings may be joined; empty where the corpus does not say."""

    def __str__(self) -> str:
        return self.name or str(self.parts[0])


def read_csv(source: Path) -> list[Recording]:
    """A CSV file with the columns `path` (from the file's folder), `text` and `split`, or the folder with its
    `utterances.csv`. Other columns are ignored, save `speaker`. Raises `InputError` when a column is missing.
    """
    path = source / "utterances.csv" if source.is_dir() else source
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            missing = [column for column in _COLUMNS[:3] if column not in (rows.fieldnames or ())]
            if missing:
                found = ", ".join(rows.fieldnames or ()) or "none"
                raise InputError(f"{path}: the column {missing[0]!r} is missing; its columns are {found}")
            recordings = []
            for row in rows:
                # a short row has None in its last columns
                audio, text, split, speaker = ((row.get(name) or "").strip() for name in _COLUMNS)
                if "\0" in audio:
                    raise InputError(f"{path}: line {rows.line_num}: the path holds a NUL character")
                recordings.append(Recording((path.parent / audio,), text, split, speaker=speaker))
            return recordings
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: is not a CSV file in UTF-8: {error}") from None


def read_librispeech(source: Path) -> list[Recording]:
    """The folder with LibriSpeech's splits (Panayotov et al. 2015): `dev-clean/84/121123/84-121123.trans.txt` and
    its FLAC files. Every subfolder with transcripts is a split; a FLAC file without a transcript has an empty text.
    """
    recordings = []
    for transcript in sorted(source.glob("*/*/*/*.trans.txt")):
        chapter, split = transcript.parent, transcript.parents[2].name
        try:
            lines = transcript.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{transcript}: cannot be read: {error}") from None
        texts = dict(line.partition(" ")[::2] for line in lines if line.strip())
        names = {*texts, *(path.stem for path in chapter.glob("*.flac"))}
        recordings += [Recording((chapter / f"{name}.flac",), texts.get(name, ""), split) for name in sorted(names)]
    if not recordings:
        raise InputError(f"{source}: holds no SPLIT/SPEAKER/CHAPTER/*.trans.txt; give the folder above `dev-clean`")
    return recordings


def read_fsdd(source: Path) -> list[Recording]:
    """The Free Spoken Digit Dataset: its repository, with `recordings/7_jackson_32.wav` (recordings 0 to 4 of a
    digit are test, as its README has it, 5 to 9 dev here, the others train), or a folder with `utterances.csv`.
    """
    if (source / "utterances.csv").is_file():
        return read_csv(source)
    recordings = []
    for path in sorted(source.glob("recordings/*.wav")):
        match = re.fullmatch(r"(\d)_([^_]+)_(\d+)", path.stem)
        if match is None:
            raise InputError(f"{path}: its name is not DIGIT_SPEAKER_INDEX.wav")
        digit, speaker, index = int(match[1]), match[2], int(match[3])
        split = "test" if index < 5 else "dev" if index < 10 else "train"
        recordings.append(Recording((path,), DIGITS[digit], split, speaker=speaker))
    if not recordings:
        raise InputError(f"{source}: holds neither recordings/*.wav nor utterances.csv")
    return recordings


CORPORA: dict[str, Callable[[Path], list[Recording]]] = {
    "csv": read_csv,
    "librispeech": read_librispeech,
    "fsdd": read_fsdd,
}
"""The reader of each corpus that `prepare` knows."""


def join_recordings(
    recordings: list[Recording], lengths: tuple[int, int], *, count: int | None = None, seed: int = 0
) -> list[Recording]:
    """`count` strings of `lengths` (fewest, most) recordings of one speaker within one split.

    The strings are shared among the splits, and among a split's speakers, in proportion to their recordings; the
    default count uses every recording about once. The result is a function of the arguments.
    """
    groups: dict[tuple[str, str], list[Recording]] = defaultdict(list)
    for recording in recordings:
        if not recording.speaker:
            raise InputError(f"{recording}: its speaker is not known, and recordings are joined by speaker")
        groups[recording.split, recording.speaker].append(recording)
    if count is None:
        count = round(2 * len(recordings) / sum(lengths))
    joined = []
    for (split, speaker), group in sorted(groups.items()):
        rng = random.Random(f"{seed}/{split}/{speaker}")
        deck = _shuffled_forever(group, rng)
        for index in range(max(1, round(count * len(group) / len(recordings)))):
            parts = list(itertools.islice(deck, rng.randint(*lengths)))
            joined.append(
                Recording(
                    parts=tuple(part.parts[0] for part in parts),
                    text=" ".join(part.text for part in parts),
                    split=split,
                    pauses=tuple(rng.uniform(*PAUSES) for _ in parts[1:]),
                    name=f"{split}/{re.sub(r'[^A-Za-z0-9_-]', '_', speaker)}-{index:05d}",
                    speaker=speaker,
                )
            )
    return joined


def _shuffled_forever(recordings: list[Recording], rng: random.Random) -> Iterator[Recording]:
    while True:
        yield from rng.sample(recordings, len(recordings))
