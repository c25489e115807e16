"""Language models and lexicons that are made to crash, to hang or to fill the memory end in one line."""

import gzip
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from w2v_compress.data.units import Units
from w2v_compress.runtime.decoding.beam_search import BeamSearchDecoder

Rejects = Callable[..., None]
HEADER = b"\\data\\\nngram 1=7\nngram 2=6\nngram 3=2\n\n\\1-grams:\n"


def replaced(old: str, new: str) -> Callable[[bytes], bytes]:
    return lambda content: content.replace(old.encode(), new.encode(), 1)


HOSTILE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "10^12 n-grams": (replaced("ngram 2=6", "ngram 2=1000000000000"), "'ngram 2=1000000000000' must give the number"),
    "10^9 n-grams": (replaced("ngram 1=7", "ngram 1=1000000000"), "of which the file has room for"),
    "-5 n-grams": (replaced("ngram 1=7", "ngram 1=-5"), "'ngram 1=-5' must give the number of n-grams"),
    "2^64 n-grams": (replaced("ngram 1=7", f"ngram 1={2**64}"), "of which the file has room for"),
    "digits": (replaced("ngram 1=7", "ngram 1=" + "9" * 5000), "of which the file has room for"),
    "too few n-grams": (replaced("ngram 1=7", "ngram 1=3"), "KenLM cannot read it: "),
    "order": (
        replaced("ngram 3=2", "\n".join(f"ngram {order}=2" for order in range(3, 101))),
        "KenLM cannot read it: ",
    ),
    "missing order": (replaced("ngram 2=6\n", ""), "KenLM cannot read it: ngram count lengths should be consecutive"),
    "NaN": (replaced("-0.8\tA", "nan\tA"), "KenLM cannot read it: Could not parse"),
    "infinity": (replaced("-0.8\tA", "inf\tA"), "KenLM cannot read it: Positive log probability inf"),
    "positive": (replaced("-0.8\tA", "1\tA"), "KenLM cannot read it: Positive log probability 1"),
    "infinite back-off": (replaced("A\t-0.3", "A\t-inf"), "KenLM cannot read it: Bad backoff -inf"),
    "words of an n-gram": (replaced("A AB\t-0.15", "A AB BA\t-0.15"), "KenLM cannot read it: "),
    "unknown word": (replaced("AB BA\t-0.05", "AB X\t-0.05"), "KenLM cannot read it: Word X was not seen"),
    "no end": (replaced("\\end\\", ""), "KenLM cannot read it: "),
    "random bytes": (lambda _: b"\xff" + bytes(range(256)) * 100, "is not UTF-8 text"),
    "gzip of zeros": (lambda _: gzip.compress(bytes(30_000_000), 1), "has a line that is longer than 100000 bytes"),
    "gzip of empty lines": (
        lambda content: gzip.compress(HEADER[:-11] + b"\n" * 30_000_000, 9),
        "unpacks to more than 50 times its size",
    ),
    "gzip of words": (
        lambda _: gzip.compress(HEADER + b"-1\tA\t0\n" * 4_000_000, 9),
        "unpacks to more than 50 times its size",
    ),
    "cut gzip": (lambda content: gzip.compress(content)[:60], "is damaged or cut short"),
}


@pytest.fixture
def lexicon(tmp_path: Path) -> Path:
    path = tmp_path / "words.txt"
    path.write_text("A\nAB\nBA\nBAD\n")
    return path


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_arpa_file(name: str, arpa: Path, lexicon: Path, rejects: Rejects) -> None:
    change, message = HOSTILE[name]
    BeamSearchDecoder(Units.letters(), 0.02, lm=arpa, lexicon=lexicon)
    arpa.write_bytes(change(arpa.read_bytes()))
    for words in (lexicon, None):
        rejects(lambda words=words: BeamSearchDecoder(Units.letters(), 0.02, lm=arpa, lexicon=words), arpa, message)


def test_a_binary_that_claims_more_n_grams_than_it_has(binary: Path, lexicon: Path, rejects: Rejects) -> None:
    content = binary.read_bytes()
    counts = content.index(struct.pack("<QQQ", 7, 6, 2))
    for count in (2**40, 2**63, 0):
        binary.write_bytes(content[:counts] + struct.pack("<Q", count) + content[counts + 8 :])
        rejects(lambda: BeamSearchDecoder(Units.letters(), 0.02, lm=binary, lexicon=lexicon), binary, "KenLM")


LEXICONS: dict[str, tuple[bytes, str]] = {
    "word of 99,000 letters": (b"A" * 99_000, "AAAAAAAAAAAAAAAAAAAA... is spelled with 99001 units; at most 1000"),
    "spelling of 40,000 units": (b"ONE" + b" A" * 40_000, "ONE... is spelled with 40001 units; at most 1000"),
    "line": (b"A" * 200_000, "line 1 is longer than 100000 bytes: not a list of words"),
    "escape": (b"\x1b[2J\n", "none of its 1 words can be spelled"),
    "NUL": (b"\0\n", "none of its 1 words can be spelled"),
    "no word": (b"\n \n", "contains no word"),
    "unknown unit": (b"ONE 1 2 3\n", "none of its 1 words can be spelled"),
    "latin-1": (b"ONE\n\xe9\n", "line 2 is not UTF-8 text"),
}


@pytest.mark.parametrize("name", LEXICONS)
def test_a_hostile_lexicon(name: str, lexicon: Path, rejects: Rejects) -> None:
    content, message = LEXICONS[name]
    lexicon.write_bytes(content)
    rejects(lambda: BeamSearchDecoder(Units.letters(), 0.02, lexicon=lexicon), lexicon, message)


def test_special_files(tmp_path: Path, lexicon: Path, rejects: Rejects) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    for files in ({"lm": path}, {"lm": path, "lexicon": lexicon}, {"lexicon": path}):
        rejects(lambda files=files: BeamSearchDecoder(Units.letters(), 0.02, **files), path, "is not a plain file")
