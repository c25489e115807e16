"""What a recognizer writes: letters or sentencepiece pieces, in the order of a fairseq dictionary."""

import base64
import io
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import sentencepiece as spm

from ..errors import InputError
from ..files import replacing

UnitKind = Literal["letter", "sentencepiece"]
SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
"""The symbols that fairseq puts before those of the dictionary file. `<s>` is the CTC blank."""
LETTERS = tuple("|ETAONIHSRDLUMWCFGYPBVK'XJQZ")
"""The letters of fairseq's LibriSpeech models, in their order; `|` ends a word."""

_SUFFIXES = {"letter": "ltr", "sentencepiece": "spm"}
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # what sentencepiece writes for a space


@dataclass(frozen=True)
class Units:
    """The output classes of a network. Raises `InputError` when they contradict each other."""

    kind: UnitKind
    symbols: tuple[str, ...]
    """By class; fairseq's four specials come first."""
    sentencepiece: bytes | None = None
    """The sentencepiece model, serialized, when that is the kind."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(UnitKind):
            raise InputError(f"units: `kind` is {self.kind!r}; it must be one of {', '.join(get_args(UnitKind))}")
        if self.symbols[: len(SPECIALS)] != SPECIALS:
            raise InputError(f"units: the first symbols are {self.symbols[:4]}; they must be {' '.join(SPECIALS)}")
        for symbol in self.symbols:
            if not isinstance(symbol, str) or not symbol or symbol.split() != [symbol]:
                raise InputError(f"units: {symbol!r} is not a symbol: it is empty or holds a space")
        if len(self._index) < len(self.symbols):
            twice = next(symbol for place, symbol in enumerate(self.symbols) if symbol in self.symbols[:place])
            raise InputError(f"units: the symbol {twice!r} is there twice")
        if self.kind == "letter" and "|" not in self._index:
            raise InputError("units: letters need the symbol '|', the end of a word")
        if (self.kind == "sentencepiece") != (self.sentencepiece is not None):
            raise InputError("units: a sentencepiece model belongs to sentencepiece units, and to them only")
        if self.sentencepiece is not None:
            _ = self._processor

    @classmethod
    def letters(cls) -> "Units":
        """The letters of fairseq's LibriSpeech models."""
        return cls("letter", SPECIALS + LETTERS)

    @classmethod
    def train_sentencepiece(cls, texts: Iterable[str], vocab_size: int) -> "Units":
        """`vocab_size` pieces (unigram model; Kudo and Richardson 2018) learnt from `texts`, beside the specials.

        The same texts give the same pieces. Raises `InputError` when the texts do not yield as many.
        """
        model = io.BytesIO()
        try:
            spm.SentencePieceTrainer.train(
                sentence_iterator=iter(texts),
                model_writer=model,
                vocab_size=vocab_size + 1,  # sentencepiece counts its own <unk>
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
            reason = str(error).rpartition("] ")[2] or "too little text"
            raise InputError(f"sentencepiece units: {vocab_size} pieces and <unk> cannot be learnt: {reason}") from None
        processor = spm.SentencePieceProcessor(model_proto=model.getvalue())
        pieces = tuple(processor.id_to_piece(piece) for piece in range(1, len(processor)))
        return cls("sentencepiece", SPECIALS + pieces, model.getvalue())

    @classmethod
    def read_dictionary(cls, path: Path, kind: UnitKind = "letter") -> "Units":
        """The units in a fairseq dictionary, lines of `symbol count`; a sentencepiece model is `spm.model` beside it.

        Raises `InputError` that names the file and line.
        """
        symbols = list(SPECIALS)
        try:
            lines = _read_bytes(path).decode("utf-8").removesuffix("\n").split("\n")
        except UnicodeDecodeError:
            raise InputError(f"{path}: is not UTF-8 text") from None
        for number, line in enumerate(lines, start=1):
            symbol, _, count = line.rstrip().rpartition(" ")
            if not symbol or not count.lstrip("-").isdecimal():
                raise InputError(f"{path}: line {number} is {line[:80]!r}; it must be a symbol, a space and a count")
            symbols.append(symbol)
        model = _read_bytes(path.with_name("spm.model")) if kind == "sentencepiece" else None
        try:
            return cls(kind, tuple(symbols), model)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Units":
        """The inverse of `to_dict`; `InputError` when a field is missing or wrong."""
        try:
            model = values["sentencepiece"]
            model = None if model is None else base64.b64decode(model, validate=True)
            return cls(values["kind"], tuple(values["symbols"]), model)
        except KeyError as error:
            raise InputError(f"units: the field {error} is missing") from None
        except (TypeError, ValueError) as error:
            raise InputError(str(error) if isinstance(error, InputError) else f"units: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as the metadata of a model file holds them; the sentencepiece model as base64."""
        model = None if self.sentencepiece is None else base64.b64encode(self.sentencepiece).decode("ascii")
        return {"kind": self.kind, "symbols": list(self.symbols), "sentencepiece": model}

    @property
    def suffix(self) -> str:
        """Of the label files, and fairseq's `task.labels`: `ltr` or `spm`."""
        return _SUFFIXES[self.kind]

    @property
    def dictionary_name(self) -> str:
        """The name by which fairseq finds the dictionary in a manifest folder."""
        return f"dict.{self.suffix}.txt"

    def write_dictionary(self, path: Path) -> None:
        """The fairseq dictionary at `path`, and `spm.model` beside it. CTC has no use for the counts: they are 1."""
        if self.sentencepiece is not None:
            with replacing(path.with_name("spm.model")) as temporary:
                temporary.write_bytes(self.sentencepiece)
        with replacing(path) as temporary:
            lines = [f"{symbol} 1\n" for symbol in self.symbols[len(SPECIALS) :]]
            temporary.write_text("".join(lines), encoding="utf-8")

    def normalize_text(self, text: str) -> str:
        """`text` with single spaces, composed accents (NFC), and the case of the units when they have only one."""
        text = unicodedata.normalize("NFC", " ".join(text.split()))
        has_upper, has_lower = self._cases
        if has_upper == has_lower:
            return text
        return text.upper() if has_upper else text.lower()

    def unknown_characters(self, text: str) -> str:
        """The characters of `text` that the units cannot write, sorted. Case counts: see `normalize_text`."""
        if self.kind == "letter":
            unknown = set("".join(text.split())) - (set(self.symbols) - {"|"})
        else:
            pieces = self._processor.encode(text, out_type=str)
            unknown = set("".join(piece for piece in pieces if piece not in self._index)) - {_SPACE}
            unknown |= {_SPACE} & set(text)
        return "".join(sorted(unknown))

    def labels(self, text: str) -> str:
        """The line of the `.ltr` or `.spm` file for `text`: its symbols with spaces between them."""
        return " ".join(self._tokens(text))

    def encode(self, text: str) -> list[int]:
        """The classes that CTC is to emit for `text`. Raises `InputError` that names characters outside the units."""
        return [self._index[token] for token in self._tokens(text)]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of classes that are collapsed already; specials, the blank among them, say nothing."""
        ids = [int(unit) for unit in ids]
        wrong = next((unit for unit in ids if not 0 <= unit < len(self.symbols)), None)
        if wrong is not None:
            raise InputError(f"units: class {wrong} is not one of the {len(self.symbols)} units")
        text = "".join(self.symbols[unit] for unit in ids if unit >= len(SPECIALS))
        return " ".join(text.replace(self.word_separator, " ").split())

    @property
    def word_separator(self) -> str:
        """What stands for a space in the symbols: a letter of its own, or the beginning of a sentencepiece piece."""
        return "|" if self.kind == "letter" else _SPACE

    @cached_property
    def _cases(self) -> tuple[bool, bool]:
        """Whether there are letters in upper case, and in lower case."""
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
            return self._processor.encode(text, out_type=str)
        # a word ends with `|`, the last one too, as in the files that fairseq's libri_labels.py writes
        return [letter for word in text.split() for letter in (*word, "|")]


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
