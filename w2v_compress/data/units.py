"""Output units of a recognizer: letters or sentencepiece pieces, in the order of a fairseq dictionary."""

import base64
import io
import itertools
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import sentencepiece as spm

from ..errors import CONTROL, InputError, prefixed, readable
from ..files import replacing

UnitKind = Literal["letter", "sentencepiece"]
SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
"""Symbols that fairseq inserts before those of the dictionary file; `<s>` is the CTC blank."""
LETTERS = tuple("|ETAONIHSRDLUMWCFGYPBVK'XJQZ")
"""Letters of fairseq's LibriSpeech models in dictionary order; `|` ends a word."""

_SUFFIXES = {"letter": "ltr", "sentencepiece": "spm"}
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # sentencepiece's symbol for a space


@dataclass(frozen=True)
class Units:
    """Output classes of a network. Raises `InputError` if the fields are invalid or contradict each other."""

    kind: UnitKind
    """Kind of unit: `letter` or `sentencepiece`."""
    symbols: tuple[str, ...]
    """Symbol of each class; the four of `SPECIALS` come first."""
    sentencepiece: bytes | None = None
    """Serialized sentencepiece model; None for letters."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(UnitKind):
            raise InputError(f"units: `kind` is {self.kind!r}; it must be one of {', '.join(get_args(UnitKind))}")
        if self.symbols[: len(SPECIALS)] != SPECIALS:
            raise InputError(f"units: the first symbols are {self.symbols[:4]}; they must be {' '.join(SPECIALS)}")
        for symbol in self.symbols:
            if not isinstance(symbol, str) or not symbol or symbol.split() != [symbol]:
                raise InputError(f"units: {symbol!r} is not a symbol: it is empty or has a space")
            if any(unicodedata.category(character) in CONTROL for character in symbol):
                raise InputError(f"units: {symbol!r} is not a symbol: it has a control character")
        if len(self._index) < len(self.symbols):
            repeated = Counter(self.symbols).most_common(1)[0][0]
            raise InputError(f"units: the symbol {repeated!r} is listed twice")
        if self.kind == "letter" and "|" not in self._index:
            raise InputError("units: letters need the symbol '|', the end of a word")
        if (self.kind == "sentencepiece") != (self.sentencepiece is not None):
            raise InputError("units: sentencepiece units, and only they, need a `sentencepiece` model")
        if self.sentencepiece is not None:
            _ = self._processor

    @classmethod
    def letters(cls) -> "Units":
        """Return the letters of fairseq's LibriSpeech models."""
        return cls("letter", SPECIALS + LETTERS)

    @classmethod
    def train_sentencepiece(cls, texts: Iterable[str], vocab_size: int) -> "Units":
        """Train `vocab_size` pieces (unigram model; Kudo and Richardson 2018), besides the specials, on `texts`.

        Equal texts give equal pieces. Raises `InputError` if `texts` do not yield that many.
        """
        model = io.BytesIO()
        try:
            spm.SentencePieceTrainer.train(
                sentence_iterator=iter(texts),
                model_writer=model,
                vocab_size=vocab_size + 1,  # including the <unk> of sentencepiece
                unk_id=0,
                bos_id=-1,
                eos_id=-1,
                pad_id=-1,
                character_coverage=1.0,
                normalization_rule_name="identity",
                num_threads=1,
                minloglevel=2,
            )
        except (RuntimeError, OSError) as error:
            detail = str(error).rpartition("] ")[2] or "too little text"
            raise InputError(
                f"units: {vocab_size} sentencepiece pieces and <unk> cannot be trained: {detail}"
            ) from None
        processor = spm.SentencePieceProcessor(model_proto=model.getvalue())
        pieces = tuple(processor.id_to_piece(piece) for piece in range(1, len(processor)))
        return cls("sentencepiece", SPECIALS + pieces, model.getvalue())

    @classmethod
    def read_dictionary(cls, path: Path, kind: UnitKind = "letter") -> "Units":
        """Read units from a fairseq dictionary, whose lines are `symbol count`.

        A sentencepiece model is read from `spm.model` beside it. Raises `InputError` with the file and line.
        """
        symbols = read_symbols(path)
        model = None
        if kind == "sentencepiece":
            model_path = path.with_name("spm.model")
            with readable(model_path):
                model = model_path.read_bytes()
        with prefixed(path):
            return cls(kind, SPECIALS + symbols, model)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Units":
        """Create units from the result of `to_dict`. Raises `InputError` if a field is missing or invalid."""
        try:
            model = values["sentencepiece"]
            model = None if model is None else base64.b64decode(model, validate=True)
            return cls(values["kind"], tuple(values["symbols"]), model)
        except KeyError as error:
            raise InputError(f"units: the field {error} is missing") from None
        except (TypeError, ValueError) as error:
            raise InputError(str(error) if isinstance(error, InputError) else f"units: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for the header of a model file, with the sentencepiece model in base64."""
        model = None if self.sentencepiece is None else base64.b64encode(self.sentencepiece).decode("ascii")
        return {"kind": self.kind, "symbols": list(self.symbols), "sentencepiece": model}

    @property
    def suffix(self) -> str:
        """Suffix of label files and value of fairseq's `task.labels`: `ltr` or `spm`."""
        return _SUFFIXES[self.kind]

    @property
    def dictionary_name(self) -> str:
        """File name of the dictionary in a manifest folder, as fairseq expects it."""
        return f"dict.{self.suffix}.txt"

    def write_dictionary(self, path: Path) -> None:
        """Write a fairseq dictionary to `path`, and `spm.model` beside it. Counts are 1: CTC ignores them."""
        if self.sentencepiece is not None:
            with replacing(path.with_name("spm.model")) as temporary:
                temporary.write_bytes(self.sentencepiece)
        with replacing(path) as temporary:
            lines = [f"{symbol} 1\n" for symbol in self.symbols[len(SPECIALS) :]]
            temporary.write_text("".join(lines), encoding="utf-8")

    def normalize_text(self, text: str) -> str:
        """Collapse spaces, compose accents (NFC) and, if all units have one case, convert `text` to it."""
        text = unicodedata.normalize("NFC", " ".join(text.split()))
        has_upper, has_lower = self._cases
        if has_upper == has_lower:
            return text
        return text.upper() if has_upper else text.lower()

    def unknown_characters(self, text: str) -> str:
        """Return the characters of `text` outside the units, sorted. Case matters: see `normalize_text`."""
        if self.kind == "letter":
            unknown = set("".join(text.split())) - (set(self.symbols) - {"|"})
        else:
            pieces = self._processor.encode(text, out_type=str)
            unknown = set("".join(piece for piece in pieces if piece not in self._index)) - {_SPACE}
            unknown |= {_SPACE} & set(text)
        return "".join(sorted(unknown))

    def labels(self, text: str) -> str:
        """Return the line of a `.ltr` or `.spm` file for `text`: its symbols separated by spaces."""
        return " ".join(self._tokens(text))

    def encode(self, text: str) -> list[int]:
        """Return the CTC labels of `text` as classes. Raises `InputError` with the characters outside the units."""
        return [self._index[token] for token in self._tokens(text)]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of collapsed classes (no repeats); specials, such as the blank, are skipped."""
        ids = [int(unit) for unit in ids]
        invalid = next((unit for unit in ids if not 0 <= unit < len(self.symbols)), None)
        if invalid is not None:
            raise InputError(f"units: class {invalid} is not one of the {len(self.symbols)} units")
        text = "".join(self.symbols[unit] for unit in ids if unit >= len(SPECIALS))
        return " ".join(text.replace(self.word_separator, " ").split())

    @property
    def word_separator(self) -> str:
        """Symbol for a space: the letter `|`, or the first character of a sentencepiece piece."""
        return "|" if self.kind == "letter" else _SPACE

    @cached_property
    def _cases(self) -> tuple[bool, bool]:
        """Whether the units have upper-case letters, and whether they have lower-case ones."""
        letters = [symbol for symbol in self.symbols if len(symbol) == 1]
        return any(map(str.isupper, letters)), any(map(str.islower, letters))

    @cached_property
    def _index(self) -> dict[str, int]:
        return {symbol: place for place, symbol in enumerate(self.symbols)}

    @cached_property
    def _processor(self) -> spm.SentencePieceProcessor:
        try:
            return spm.SentencePieceProcessor(model_proto=self.sentencepiece)
        except RuntimeError:
            raise InputError("units: the sentencepiece model cannot be read") from None

    def _tokens(self, text: str) -> list[str]:
        unknown = self.unknown_characters(text)
        if unknown:
            raise InputError(f"text {text[:60]!r}: not in the units: {' '.join(unknown)}")
        if self.kind == "sentencepiece":
            pieces: list[str] = self._processor.encode(text, out_type=str)
            return pieces
        # each word ends with `|`, as in the output of fairseq's libri_labels.py
        return [letter for word in text.split() for letter in (*word, "|")]


def ctc_frames(labels: Sequence[int]) -> int:
    """Return the fewest frames in which CTC can emit `labels` (Graves et al. 2006, section 3).

    That is one frame for each label, and one for the blank between two equal labels.
    """
    return len(labels) + sum(first == second for first, second in itertools.pairwise(labels))


def read_symbols(path: Path) -> tuple[str, ...]:
    """Read the symbols of a fairseq dictionary, whose lines are `symbol count`, without fairseq's specials.

    Raises `InputError`, with the line, if the file cannot be read, is malformed or lists a symbol twice.
    """
    with readable(path):
        content = path.read_bytes()
    try:
        lines = content.decode("utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8 text") from None
    symbols: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        symbol, _, count = line.rstrip().rpartition(" ")
        if not symbol or not count.lstrip("-").isdecimal():
            raise InputError(f"{path}: line {number} is {line[:80]!r}; it must be a symbol, a space and a count")
        if symbol in symbols:
            raise InputError(f"{path}: line {number}: the symbol {symbol[:20]!r} is in line {symbols[symbol]} too")
        symbols[symbol] = number
    return tuple(symbols)
