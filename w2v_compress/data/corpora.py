"""Read corpora in their published layouts: each reader lists the recordings of a folder with text and split."""

import csv
import itertools
import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError, readable

DIGITS = ("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE")
PAUSES = (0.03, 0.25)
"""Shortest and longest silence, in seconds, between joined recordings."""

_COLUMNS = ("path", "text", "split", "speaker")


@dataclass(frozen=True)
class Recording:
    """One utterance of a corpus, not yet validated."""

    parts: tuple[Path, ...]
    """Audio files in order; more than one only for joined recordings."""
    text: str
    """Transcript as the corpus has it."""
    split: str
    """Name of the split, such as `train` or `dev-clean`."""
    pauses: tuple[float, ...] = ()
    """Silence, in seconds, before each part except the first."""
    name: str = ""
    """Name of joined recordings; empty for a single file."""
    speaker: str = ""
    """Speaker of the recording; empty if the corpus does not state it."""

    def __str__(self) -> str:
        return self.name or str(self.parts[0])


def read_csv(source: Path) -> list[Recording]:
    """Read the CSV file `source`, or `utterances.csv` in the folder `source`.

    The columns are `path` (relative to the file's folder), `text`, `split` and, optionally, `speaker`; others are
    ignored. Raises `InputError` if a column is missing or the file is not CSV in UTF-8.
    """
    path = source / "utterances.csv" if source.is_dir() else source
    try:
        with readable(path), path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            missing = [column for column in _COLUMNS[:3] if column not in (rows.fieldnames or ())]
            if missing:
                found = ", ".join(rows.fieldnames or ()) or "none"
                raise InputError(f"{path}: the column {missing[0]!r} is missing; its columns are {found}")
            recordings = []
            for row in rows:
                # csv fills the missing columns of a short row with None
                audio, text, split, speaker = ((row.get(name) or "").strip() for name in _COLUMNS)
                if "\0" in audio:
                    raise InputError(f"{path}: line {rows.line_num}: the path has a NUL character")
                recordings.append(Recording((path.parent / audio,), text, split, speaker=speaker))
            return recordings
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: is not a CSV file in UTF-8: {error}") from None


def read_librispeech(source: Path) -> list[Recording]:
    """Read the splits of LibriSpeech (Panayotov et al. 2015) below the folder `source`.

    A transcript file is `dev-clean/84/121123/84-121123.trans.txt`, with its FLAC files beside it. Every subfolder that
    has transcripts is a split; the text of a FLAC file without a transcript is empty.
    """
    recordings = []
    for transcript in sorted(source.glob("*/*/*/*.trans.txt")):
        chapter, split = transcript.parent, transcript.parents[2].name
        try:
            with readable(transcript):
                lines = transcript.read_text(encoding="utf-8").split("\n")
        except UnicodeDecodeError as error:
            raise InputError(f"{transcript}: is not UTF-8 text: {error}") from None
        texts = dict(line.partition(" ")[::2] for line in lines if line.strip())
        names = {*texts, *(path.stem for path in chapter.glob("*.flac"))}
        recordings += [Recording((chapter / f"{name}.flac",), texts.get(name, ""), split) for name in sorted(names)]
    if not recordings:
        raise InputError(f"{source}: has no SPLIT/SPEAKER/CHAPTER/*.trans.txt; give the folder above `dev-clean`")
    return recordings


def read_fsdd(source: Path) -> list[Recording]:
    """Read the Free Spoken Digit Dataset: its repository, or a folder with `utterances.csv`.

    In the repository, the index of `recordings/7_jackson_32.wav` (here 32) gives the split: 0 to 4 are test, as in
    its README, 5 to 9 are dev, and all others are train.
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
        raise InputError(f"{source}: has neither recordings/*.wav nor utterances.csv")
    return recordings


CORPORA: dict[str, Callable[[Path], list[Recording]]] = {
    "csv": read_csv,
    "librispeech": read_librispeech,
    "fsdd": read_fsdd,
}
"""Reader of each supported corpus, by the name that `prepare` takes."""


def join_recordings(
    recordings: list[Recording], lengths: tuple[int, int], *, count: int | None = None, seed: int = 0
) -> list[Recording]:
    """Join recordings of one speaker and split to sequences of `lengths` (fewest, most) recordings each.

    Each recording is used once, so that error rates have valid intervals; a speaker's last sequence may be shorter.
    With `count`, the splits whose names start with `train` get that many sequences in all, and their recordings are
    used as often as needed, but evenly. Equal arguments give equal results. Raises `InputError` for a recording without
    a speaker.
    """
    groups: dict[tuple[str, str], list[Recording]] = defaultdict(list)
    for recording in recordings:
        if not recording.speaker:
            raise InputError(f"{recording}: its speaker is not known, but recordings are joined by speaker")
        groups[recording.split, recording.speaker].append(recording)
    training = sum(recording.split.startswith("train") for recording in recordings)
    joined = []
    for (split, speaker), group in sorted(groups.items()):
        rng = random.Random(f"{seed}/{split}/{speaker}")
        if count is not None and split.startswith("train"):
            sequences = _used_evenly(group, lengths, max(1, round(count * len(group) / training)), rng)
        else:
            sequences = _used_once(group, lengths, rng)
        for index, parts in enumerate(sequences):
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


def _used_once(recordings: list[Recording], lengths: tuple[int, int], rng: random.Random) -> Iterator[list[Recording]]:
    rest = rng.sample(recordings, len(recordings))
    while rest:
        length = rng.randint(*lengths)
        yield rest[:length]
        rest = rest[length:]


def _used_evenly(
    recordings: list[Recording], lengths: tuple[int, int], count: int, rng: random.Random
) -> Iterator[list[Recording]]:
    endless = itertools.chain.from_iterable(rng.sample(recordings, len(recordings)) for _ in itertools.count())
    for _ in range(count):
        yield list(itertools.islice(endless, rng.randint(*lengths)))
