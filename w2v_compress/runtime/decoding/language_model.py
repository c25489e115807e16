"""Load n-gram language models with KenLM: ARPA text, optionally gzipped, and KenLM's binary files.

KenLM (Heafield 2011, "KenLM: Faster and Smaller Language Model Queries") validates the n-grams of an ARPA file, but
reserves memory for as many as its header claims, so these numbers are compared with the size of the file first. Of a
binary file it validates the size only: it follows the offsets stored in it, so a damaged one can crash the process.
Therefore a subprocess probes a binary file first: it loads the file and looks up every word of the lexicon.
"""

import gzip
import os
import re
import subprocess
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...errors import InputError, readable
from .lexicon import MAX_LINE_BYTES, text_lines

BINARY_MAGIC = b"mmap lm http://kheafield.com/code"
GZIP_MAGIC = b"\x1f\x8b"
UNKNOWN = "<unk>"
MAX_EXPANSION = 50
"""Largest ratio of an unpacked file to its gzip: language models reach 10, and a file made to fill the memory 1000."""
MIN_NGRAM_BYTES = 4
"""Fewest bytes of an n-gram in an ARPA file: a digit, a tab, a letter and a line end."""
PROBE = Path(__file__).with_name("kenlm_probe.py")
PROBE_SECONDS, PROBE_BYTES_PER_SECOND = 60, 10_000_000
"""Time limit of the probe: a constant plus the file size at this rate. A search in damaged tables may never end."""


def arpa_words(path: Path) -> Iterator[str]:
    """Yield the unigrams of the ARPA file `path`, including `<s>`, `</s>` and `<unk>`.

    Raises `InputError` that names the file if it is missing, empty, not text, or a binary file, which does not list its
    words.
    """
    if _begins_with(path, BINARY_MAGIC):
        raise InputError(f"{path}: a KenLM binary does not list its words: give a list with --lexicon (`lexicon`)")
    in_unigrams = False
    for line in _arpa_lines(path):
        if line.startswith("\\"):
            if in_unigrams:
                return
            in_unigrams = line.strip() == "\\1-grams:"
        elif in_unigrams and (fields := line.split()):
            if len(fields) not in (2, 3):
                raise InputError(f"{path}: the 1-gram {line.strip()[:80]!r} must be a number, a word and a number")
            yield fields[1]
    raise InputError(f"{path}: not a complete ARPA file: the 1-grams do not end")


def load_language_model(path: Path, words: Sequence[str]) -> Any:
    """Load the file `path` as flashlight's `KenLM`, which identifies a word by its index in `words`.

    Raises `InputError` that names the file if KenLM rejects it or none of the words is in its vocabulary.
    """
    from flashlight.lib.text.decoder.kenlm import KenLM
    from flashlight.lib.text.dictionary import Dictionary

    if _begins_with(path, BINARY_MAGIC):
        _probe(path, words)
    else:
        _check_arpa(path)
    try:
        with _stderr_discarded():
            model = KenLM(str(path), Dictionary([*words, UNKNOWN]))
    except UnicodeDecodeError:  # from a message of KenLM that quotes the file
        raise InputError(f"{path}: KenLM cannot read it: it is not UTF-8 text") from None
    except RuntimeError as error:
        raise InputError(f"{path}: KenLM cannot read it: {_last_line(str(error))}") from None
    start = model.start(False)
    unknown = model.score(start, len(words))[1]
    if all(model.score(start, word)[1] == unknown for word in range(len(words))):
        raise InputError(f"{path}: lacks all {len(words)} words, such as {words[0]}: do they differ in case?")
    return model


def _begins_with(path: Path, magic: bytes) -> bool:
    with readable(path):
        if not path.exists():
            raise InputError(f"{path}: no such file")
        with open(path, "rb") as file:
            beginning = file.read(len(magic))
    if not beginning:
        raise InputError(f"{path}: the file is empty")
    return beginning == magic


def _check_arpa(path: Path) -> None:
    """Raise `InputError` for an ARPA file with which KenLM would crash, or take more time or memory than its size."""
    packed = _begins_with(path, GZIP_MAGIC)
    room = path.stat().st_size * (MAX_EXPANSION if packed else 1) // MIN_NGRAM_BYTES
    for line in _arpa_lines(path):
        if line.startswith("\\1-grams:"):
            break
        count = re.fullmatch(r"ngram.*=\s*(.*?)\s*", line)
        if count is not None and not (re.fullmatch(r"[0-9]{1,15}", count[1]) and int(count[1]) <= room):
            raise InputError(
                f"{path}: {line.strip()[:80]!r} must give the number of n-grams, of which the file has room for {room}"
            )


def _arpa_lines(path: Path) -> Iterator[str]:
    packed = _begins_with(path, GZIP_MAGIC)
    with readable(path):
        try:
            if packed:
                _check_expansion(path)
            with gzip.open(path, "rb") if packed else open(path, "rb") as file:
                yield from text_lines(iter(lambda: file.readline(MAX_LINE_BYTES), b""), path)
        except (EOFError, zlib.error, gzip.BadGzipFile):
            raise InputError(f"{path}: is damaged or cut short") from None


def _check_expansion(path: Path) -> None:
    """Raise `InputError` for a gzip that unpacks to so many bytes, or such long lines, that they fill the memory."""
    room = path.stat().st_size * MAX_EXPANSION
    with gzip.open(path, "rb") as file:
        while piece := file.read(MAX_LINE_BYTES):
            room -= len(piece)
            if room < 0:
                raise InputError(f"{path}: unpacks to more than {MAX_EXPANSION} times its size: not a language model")
            if len(piece) == MAX_LINE_BYTES and b"\n" not in piece:
                raise InputError(f"{path}: has a line that is longer than {MAX_LINE_BYTES} bytes: not a list of words")


def _probe(path: Path, words: Sequence[str]) -> None:
    """Run `kenlm_probe.py` on a binary file. Raises `InputError` if it crashes, takes too long or rejects the file."""
    seconds = PROBE_SECONDS + path.stat().st_size / PROBE_BYTES_PER_SECOND
    try:
        done = subprocess.run(
            [sys.executable, "-P", str(PROBE), str(path)],
            input="\n".join(words).encode(),
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise InputError(f"{path}: damaged: KenLM did not finish looking up words within {seconds:.0f} s") from None
    if done.returncode < 0:
        raise InputError(f"{path}: damaged: it crashes KenLM (signal {-done.returncode})")
    if done.returncode > 0:
        reason = _last_line(done.stderr.decode(errors="replace"))
        raise InputError(f"{path}: KenLM cannot read it: {reason}")


def _last_line(text: str) -> str:
    """Return the last line of a KenLM message, which gives the reason; earlier lines give the place in its source."""
    return (text.strip().splitlines() or ["no reason given"])[-1][:300]


@contextmanager
def _stderr_discarded() -> Iterator[None]:
    """Discard standard error, to which KenLM prints a progress bar when flashlight calls it."""
    sys.stderr.flush()
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)
