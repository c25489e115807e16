"""Read and write fairseq manifests: `SPLIT.tsv` (root folder, then `path<TAB>samples`), `SPLIT.wrd` and labels."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from ..errors import InputError
from ..files import write_text
from .audio import SAMPLE_RATE
from .lines import Lines
from .units import Units

SAMPLES = re.compile(r"\s*0*[1-9][0-9]{0,14}\s*")
"""The samples of a recording in a manifest: at least 1, and fewer than a thousand years."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """One line of a manifest: a 16 kHz mono recording and its transcript."""

    path: Path
    """Absolute path of the audio file."""
    samples: int
    """Length of the audio in samples at 16 kHz."""
    text: str
    """Transcript, words separated by single spaces."""

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return self.samples / SAMPLE_RATE


class Manifest(Sequence[Utterance]):
    """The utterances of a subset, in file order; 20 million fit in memory, as lines are decoded when asked for."""

    def __init__(self, manifest: Lines, texts: Lines) -> None:
        self._root = manifest[0].strip()
        self._manifest = manifest
        self._texts = texts

    def __len__(self) -> int:
        return len(self._texts)

    @overload
    def __getitem__(self, index: int) -> Utterance: ...

    @overload
    def __getitem__(self, index: slice) -> list[Utterance]: ...

    def __getitem__(self, index: int | slice) -> Utterance | list[Utterance]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        path, _, samples = self._manifest[place + 1].partition("\t")
        return Utterance(Path(self._root, path), int(samples), self._texts[place].strip())


def read_manifest(folder: Path, subset: str) -> Manifest:
    """Read the utterances of `subset` from the manifest `folder`, without opening the audio.

    Raises `InputError` with the file and line if a file is missing or malformed, if the files differ in length, and
    if they have no utterances.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; `w2v-compress prepare` makes one")
    manifest = folder / f"{subset}.tsv"
    if not manifest.is_file():
        found = sorted(path.stem for path in folder.glob("*.tsv") if path.with_suffix(".wrd").is_file())
        raise InputError(f"{folder}: there is no subset {subset!r}; there is {', '.join(found) or 'none'}")
    lines, texts = Lines(manifest), Lines(manifest.with_suffix(".wrd"))
    if len(lines) < 2:
        raise InputError(f"{manifest}: holds no utterances")
    if len(texts) != len(lines) - 1:
        raise InputError(f"{manifest}: has {len(lines) - 1} utterances, but {subset}.wrd has {len(texts)} lines")
    for number, line in enumerate(lines, start=1):
        if number == 1:
            check_root(manifest, line)
        else:
            audio_path(manifest, number, line)
    for _ in texts:
        pass  # each line is UTF-8
    return Manifest(lines, texts)


def check_root(manifest: Path, line: str) -> None:
    """Raise `InputError` unless `line`, the first of `manifest`, names a folder."""
    if not line.strip() or "\t" in line or "\0" in line:
        raise InputError(f"{manifest}: line 1 is {line[:80]!r}; it must be the folder of the audio")


def audio_path(manifest: Path, number: int, line: str) -> str:
    """Return the path in `line`, whose number is `number` and not 1, of `manifest`.

    Raises `InputError` unless the line is a path within the folder of line 1, a tab and the samples.
    """
    path, _, samples = line.partition("\t")
    if not path.strip() or "\0" in path or SAMPLES.fullmatch(samples) is None:
        raise InputError(f"{manifest}: line {number} is {line[:80]!r}; it must be a path, a tab and the samples")
    # fairseq joins the root with the path, and joining with an absolute path drops the root.
    if os.path.isabs(path) or (os.pardir in path and os.path.normpath(path).split(os.sep, 1)[0] == os.pardir):
        raise InputError(f"{manifest}: line {number}: {path[:80]!r} leaves the folder of line 1; it must be within")
    return path


def write_manifest(folder: Path, subset: str, utterances: Sequence[Utterance], units: Units) -> None:
    """Write the transcripts (`.wrd`), labels (`.ltr` or `.spm`) and, last, the `.tsv` of `subset` to `folder`.

    Each file is written whole or not at all.
    """
    # fairseq joins the first line with every path, so it is the folder common to all audio files
    root = os.path.commonpath([utterance.path.parent for utterance in utterances])
    rows = [f"{os.path.relpath(utterance.path, root)}\t{utterance.samples}" for utterance in utterances]
    _write_lines(folder / f"{subset}.wrd", [utterance.text for utterance in utterances])
    _write_lines(folder / f"{subset}.{units.suffix}", [units.labels(utterance.text) for utterance in utterances])
    _write_lines(folder / f"{subset}.tsv", [root, *rows])


def fits_manifest(path: Path) -> bool:
    """Whether fairseq reads `path` back unchanged: it strips lines and splits them at tabs and at some colons."""
    return (
        path.suffix in (".wav", ".flac")
        and str(path).isprintable()  # no tabs, no line breaks, only UTF-8
        and all(part == part.strip() for part in path.parts)
    )


def is_split_name(name: str) -> bool:
    """Whether `name` is valid in file names and for fairseq, which splits subset names at commas and colons."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name) is not None and name != "rejected"


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    write_text(path, "".join(f"{line}\n" for line in lines))
