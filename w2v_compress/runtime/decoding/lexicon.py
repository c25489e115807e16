"""The words that beam search may write, and the units that spell them."""

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ...data.units import SPECIALS, Units
from ...errors import InputError

LONGEST_LINE = 100_000
"""Bytes; a longer one is no line of a lexicon or of an ARPA file, and is not read into memory."""
MARKS = ("<s>", "</s>", "<unk>", "<UNK>")
"""What language models have beside words."""
SHOWN = 5
"""How many of the words that are left out a warning names."""


@dataclass(frozen=True)
class Spelling:
    """One way to write one word."""

    word: str
    """As the language model has it."""
    text: str
    """As it is written: in the case of the units."""
    units: tuple[int, ...]
    """With letters, the end of the word belongs to it."""


def spell(words: Iterable[str], units: Units, source: Path) -> list[Spelling]:
    """`words`, which come from the file `source`, as the units spell them; the rest as `read_lexicon` says."""
    return _checked(((word, None) for word in words), units, source)


def read_lexicon(path: Path, units: Units) -> list[Spelling]:
    """The spellings in a file of a word a line, UTF-8, which its units may follow, all separated by white space.

    A word without units is spelled by `units`. The final `|` of letters may be left out. A word may come again with
    another spelling. Words that need letters or units which are not there are left out, with one warning that counts
    them. Raises `InputError` when none is left and when a line cannot be read.
    """
    return _checked(_lexicon_lines(path), units, path)


def text_lines(lines: Iterable[bytes], path: Path) -> Iterator[str]:
    """Lines of a file as text. Raises `InputError` that names the first that is too long or not UTF-8."""
    for number, line in enumerate(lines, start=1):
        if len(line) >= LONGEST_LINE:
            raise InputError(f"{path}: line {number} is longer than {LONGEST_LINE} bytes: not a list of words")
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError:
            raise InputError(f"{path}: line {number} is not UTF-8 text") from None


def _lexicon_lines(path: Path) -> Iterator[tuple[str, list[str] | None]]:
    try:
        with open(path, "rb") as file:
            for line in text_lines(iter(lambda: file.readline(LONGEST_LINE), b""), path):
                if fields := line.split():
                    yield fields[0], fields[1:] or None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None


def _checked(words: Iterable[tuple[str, list[str] | None]], units: Units, source: Path) -> list[Spelling]:
    index = {symbol: unit for unit, symbol in enumerate(units.symbols) if unit >= len(SPECIALS)}
    spellings: dict[Spelling, None] = {}  # each once, in order
    left_out: dict[str, None] = {}
    for word, symbols in words:
        if word in MARKS:
            continue
        text = units.normalize_text(word)
        if symbols is None:
            known = not units.unknown_characters(text)
            numbers = units.encode(text) if known else []
        else:
            if units.kind == "letter" and symbols[-1] != units.word_separator:
                symbols = [*symbols, units.word_separator]
            known = all(symbol in index for symbol in symbols)
            numbers = [index[symbol] for symbol in symbols] if known else []
        if known:
            spellings[Spelling(word, text, tuple(numbers))] = None
        else:
            left_out[word] = None
    if not spellings:
        problem = f"none of its {len(left_out)} words can be spelled" if left_out else "names no word"
        raise InputError(f"{source}: {problem} in the model's units, {_shown(units.symbols[len(SPECIALS) :])}")
    if left_out:
        warnings.warn(
            f"{source}: {len(left_out)} words are left out, which the model has no units for: {_shown(left_out)}",
            stacklevel=2,
        )
    return list(spellings)


def _shown(names: Iterable[str]) -> str:
    """The first of `names`, printable."""
    names = list(names)
    first = " ".join(name if name.isprintable() else ascii(name) for name in names[:SHOWN])
    return first + (" ..." if len(names) > SHOWN else "")
