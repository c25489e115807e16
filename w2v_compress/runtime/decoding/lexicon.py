"""Read and spell the words that beam search may produce."""

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ...data.units import SPECIALS, Units
from ...errors import InputError, readable

MAX_LINE_BYTES = 100_000
"""Longest line of a lexicon or an ARPA file; a longer one is rejected before it fills the memory."""
SPECIAL_WORDS = ("<s>", "</s>", "<unk>", "<UNK>")
"""Entries of a language model's vocabulary that are not words."""
MAX_UNITS = 1000
"""Longest spelling: flashlight's trie, which has a level for each unit, is traversed recursively."""
MAX_NAMES = 5
"""Number of names that a message lists."""


@dataclass(frozen=True)
class Spelling:
    """A word of the lexicon with one of its spellings."""

    word: str
    """The word as the language model spells it."""
    text: str
    """The word as it is written, in the case of the units."""
    units: tuple[int, ...]
    """Indices of the units; letters include the word separator at the end."""


def spell(words: Iterable[str], units: Units, source: Path) -> list[Spelling]:
    """Spell `words`, read from the file `source`, with the units; warnings and errors are those of `read_lexicon`."""
    return _unique_spellings(((word, None) for word in words), units, source)


def read_lexicon(path: Path, units: Units) -> list[Spelling]:
    """Read the lexicon file `path`: UTF-8, a word per line, optionally followed by its units, separated by white space.

    A word without units is spelled by `units`. The final `|` of letters is optional. A word may occur on several lines
    with different spellings. Words that need letters or units which the model lacks are left out, with one warning that
    counts them. Raises `InputError` if no word is left or a line is invalid.
    """
    return _unique_spellings(_lexicon_lines(path), units, path)


def text_lines(lines: Iterable[bytes], path: Path) -> Iterator[str]:
    """Decode lines of the file `path`. Raises `InputError` that names the first one that is too long or not UTF-8."""
    for number, line in enumerate(lines, start=1):
        if len(line) >= MAX_LINE_BYTES:
            raise InputError(f"{path}: line {number} is longer than {MAX_LINE_BYTES} bytes: not a list of words")
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError:
            raise InputError(f"{path}: line {number} is not UTF-8 text") from None


def _lexicon_lines(path: Path) -> Iterator[tuple[str, list[str] | None]]:
    """Yield each word of the file with its units, or None if the line does not list them."""
    with readable(path), open(path, "rb") as file:
        for line in text_lines(iter(lambda: file.readline(MAX_LINE_BYTES), b""), path):
            if fields := line.split():
                yield fields[0], fields[1:] or None


def _unique_spellings(words: Iterable[tuple[str, list[str] | None]], units: Units, source: Path) -> list[Spelling]:
    index = {symbol: unit for unit, symbol in enumerate(units.symbols) if unit >= len(SPECIALS)}
    spellings: dict[Spelling, None] = {}  # an ordered set
    left_out: dict[str, None] = {}
    for word, symbols in words:
        if word in SPECIAL_WORDS:
            continue
        text = units.normalize_text(word)
        if symbols is None:
            can_spell = not units.unknown_characters(text)
            spelling = units.encode(text) if can_spell else []
        else:
            if units.kind == "letter" and symbols[-1] != units.word_separator:
                symbols = [*symbols, units.word_separator]
            can_spell = all(symbol in index for symbol in symbols)
            spelling = [index[symbol] for symbol in symbols] if can_spell else []
        if len(spelling) > MAX_UNITS:
            raise InputError(
                f"{source}: {_first_names([word[:20]])}... is spelled with {len(spelling)} units; "
                f"at most {MAX_UNITS} are allowed"
            )
        if can_spell:
            spellings[Spelling(word, text, tuple(spelling))] = None
        else:
            left_out[word] = None
    if not spellings:
        problem = f"none of its {len(left_out)} words can be spelled" if left_out else "contains no word"
        raise InputError(f"{source}: {problem} in the model's units, {_first_names(units.symbols[len(SPECIALS) :])}")
    if left_out:
        warnings.warn(
            f"{source}: {len(left_out)} words are left out, for which the model has no units: {_first_names(left_out)}",
            stacklevel=2,
        )
    return list(spellings)


def _first_names(names: Iterable[str]) -> str:
    """Join the first of `names`, with unprintable ones escaped."""
    names = list(names)
    first = " ".join(name if name.isprintable() else ascii(name) for name in names[:MAX_NAMES])
    return first + (" ..." if len(names) > MAX_NAMES else "")
