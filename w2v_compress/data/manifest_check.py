"""Check manifests, labels and the dictionary before training, so that no fault in them ends it after days."""

from array import array
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

from ..errors import InputError
from .lines import read_lines
from .manifest import audio_path, check_root


def check_manifest(folder: Path, subset: str, suffix: str | None = None, symbols: Collection[str] = ()) -> None:
    """Check the manifest of `subset`, without opening the audio.

    Takes about 100 bytes of memory for each utterance.

    Args:
        folder: The manifest folder.
        subset: Name of the subset.
        suffix: Suffix of its label file, such as `ltr`; None for pre-training.
        symbols: The symbols that labels may have.

    Raises:
        InputError: A file is missing, not UTF-8 or malformed, the files differ in length, a path is listed twice or
            leaves the root folder, or a label is empty or not in the dictionary. The message names file and line.
    """
    manifest = folder / f"{subset}.tsv"
    utterances = _check_paths(manifest)
    if suffix is not None:
        labels = folder / f"{subset}.{suffix}"
        _check_length(labels, _check_labels(labels, frozenset(symbols), suffix), manifest, utterances)
    words = folder / f"{subset}.wrd"
    if suffix is not None and words.exists():
        _check_length(words, sum(1 for _ in _numbered_lines(words)), manifest, utterances)


def _check_paths(manifest: Path) -> int:
    """Check the lines of a manifest, and return the number of utterances."""
    lines = _numbered_lines(manifest)
    _, root = next(lines, (1, ""))
    check_root(manifest, root)
    hashes = array("q")
    for number, line in lines:
        hashes.append(hash(audio_path(manifest, number, line)))
    if not hashes:
        raise InputError(f"{manifest}: holds no utterances")
    _check_unique(manifest, np.frombuffer(hashes, np.int64))
    return len(hashes)


def _check_unique(manifest: Path, hashes: "np.typing.NDArray[np.int64]") -> None:
    """Raise `InputError` if a path is listed twice; `hashes` are those of all paths."""
    ordered = np.sort(hashes)
    repeated = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
    if not repeated:
        return
    first: dict[str, int] = {}
    lines = _numbered_lines(manifest)
    next(lines)
    for number, line in lines:
        path = line.partition("\t")[0]
        if hash(path) in repeated and first.setdefault(path, number) != number:
            raise InputError(f"{manifest}: line {number}: {path[:80]!r} is listed twice, first in line {first[path]}")


def _check_labels(path: Path, symbols: frozenset[str], suffix: str) -> int:
    """Check the lines of a label file, and return their number."""
    count = 0
    for number, line in _numbered_lines(path):
        count += 1
        labels = line.split()
        if not labels:
            raise InputError(f"{path}: line {number} is empty; each utterance needs at least one label")
        if not symbols.issuperset(labels):
            unknown = next(label for label in labels if label not in symbols)
            raise InputError(f"{path}: line {number}: the label {unknown[:20]!r} is not in dict.{suffix}.txt")
    return count


def _check_length(path: Path, lines: int, manifest: Path, utterances: int) -> None:
    if lines != utterances:
        raise InputError(f"{path}: has {lines} lines, but {manifest.name} has {utterances} utterances")


def _numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the number, from 1, and the text of each line of the UTF-8 file `path`."""
    if not path.exists():
        raise InputError(f"{path}: no such file; `w2v-compress prepare` makes one")
    return enumerate(read_lines(path), start=1)
