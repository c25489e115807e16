"""N-gram language models as KenLM reads them: ARPA text, gzipped or not, and KenLM's binary files.

KenLM (Heafield 2011, "KenLM: Faster and Smaller Language Model Queries") checks all of an ARPA file. Of a binary file
it checks the size alone and then follows the numbers in it, so that a damaged one can end the process. Therefore
another process tries a binary file first: it loads it, and looks up every word of the lexicon.
"""

import gzip
import os
import subprocess
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...errors import InputError
from .lexicon import LONGEST_LINE, text_lines

BINARY_MAGIC = b"mmap lm http://kheafield.com/code"
GZIP_MAGIC = b"\x1f\x8b"
UNKNOWN = "<unk>"
TRIAL = Path(__file__).with_name("try_language_model.py")
TRIAL_SECONDS, TRIAL_BYTES_PER_SECOND = 60, 10_000_000
"""How long a trial may take: damaged tables can be searched for ever."""


def arpa_words(path: Path) -> Iterator[str]:
    """The vocabulary of the ARPA file `path`, its unigrams: the marks of sentences and of unknown words are among them.

    Raises `InputError` that names the file when it is missing, empty, not text, or a binary file, which does not list
    its words.
    """
    if _begins_with(path, BINARY_MAGIC):
        raise InputError(f"{path}: a KenLM binary does not list its words: name them with --lexicon (`lexicon`)")
    inside = False
    for line in _arpa_lines(path):
        if line.startswith("\\"):
            if inside:
                return
            inside = line.strip() == "\\1-grams:"
        elif inside and (fields := line.split()):
            if len(fields) not in (2, 3):
                raise InputError(f"{path}: the 1-gram {line.strip()[:80]!r} must be a number, a word and a number")
            yield fields[1]
    raise InputError(f"{path}: not a whole ARPA file: it has no end of the 1-grams")


def load_language_model(path: Path, words: Sequence[str]) -> Any:
    """Flashlight's `KenLM` of the file `path`, for the numbers of `words`; another word would be unknown.

    Raises `InputError` that names the file when it cannot be used, and when it knows none of the words.
    """
    from flashlight.lib.text.decoder.kenlm import KenLM
    from flashlight.lib.text.dictionary import Dictionary

    if _begins_with(path, BINARY_MAGIC):
        _try(path, words)
    try:
        with _silent():
            model = KenLM(str(path), Dictionary([*words, UNKNOWN]))
    except RuntimeError as error:
        raise InputError(f"{path}: KenLM cannot read it: {_last_line(str(error))}") from None
    start = model.start(False)
    unknown = model.score(start, len(words))[1]
    if all(model.score(start, word)[1] == unknown for word in range(len(words))):
        raise InputError(f"{path}: knows none of the {len(words)} words, such as {words[0]}: is its case another one?")
    return model


def _begins_with(path: Path, magic: bytes) -> bool:
    try:
        if not path.exists():
            raise InputError(f"{path}: no such file")
        if not path.is_file():
            raise InputError(f"{path}: is not a file")
        with open(path, "rb") as file:
            beginning = file.read(len(magic))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    if not beginning:
        raise InputError(f"{path}: the file is empty")
    return beginning == magic


def _arpa_lines(path: Path) -> Iterator[str]:
    opener = gzip.open if _begins_with(path, GZIP_MAGIC) else open
    try:
        with opener(path, "rb") as file:
            yield from text_lines(iter(lambda: file.readline(LONGEST_LINE), b""), path)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise InputError(f"{path}: is damaged or cut short") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None


def _try(path: Path, words: Sequence[str]) -> None:
    """`InputError` when another process does not survive the binary file."""
    seconds = TRIAL_SECONDS + path.stat().st_size / TRIAL_BYTES_PER_SECOND
    try:
        done = subprocess.run(
            [sys.executable, "-P", str(TRIAL), str(path)],
            input="\n".join(words).encode(),
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise InputError(f"{path}: damaged: KenLM does not find words in it within {seconds:.0f} s") from None
    if done.returncode < 0:
        raise InputError(f"{path}: damaged: KenLM crashes on it (signal {-done.returncode})")
    if done.returncode > 0:
        reason = _last_line(done.stderr.decode(errors="replace"))
        raise InputError(f"{path}: KenLM cannot read it: {reason}")


def _last_line(text: str) -> str:
    """Of KenLM's messages: before it come the place in its source and the condition."""
    return (text.strip().splitlines() or ["no reason given"])[-1][:300]


@contextmanager
def _silent() -> Iterator[None]:
    """Nothing on standard error, where KenLM, as flashlight calls it, draws its progress."""
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)
