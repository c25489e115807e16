"""A trigram of four words, as ARPA and as KenLM's build_binary made it of that ARPA file."""

import base64
import zlib
from pathlib import Path

import pytest

ARPA = """\\data\\
ngram 1=7
ngram 2=6
ngram 3=2

\\1-grams:
-1.5	<unk>
-99	<s>	-0.4
-1.1	</s>
-0.8	A	-0.3
-0.9	AB	-0.25
-1.0	BA	-0.2
-1.3	BAD	-0.1

\\2-grams:
-0.3	<s> A	-0.1
-0.4	A AB	-0.15
-0.5	AB BA	-0.05
-0.2	BA </s>	0
-0.9	<s> BAD	0
-0.7	BAD AB	0

\\3-grams:
-0.1	<s> A AB
-0.25	A AB BA

\\end\\
"""
PROBING = """
eNrLzU0sUMjJVcgoKSmw0tfPzkhNTMtMzUnRS87P1U/OT0lVSMsvyk0sUShLLSrOzM9TMOViQIAGeyCxnxFI/AcCkAgjVIYZTB6w
RxZjh9JsUJqJARWwM+AGXDnfP9YWP8gG6WFv6PK/xCVqDrJD4Zm/YNFEZg82PHrVizWML0zvqWYFsgvqFPdatpWC3fTz2Fu2499n
ebFA3Lof5CEGhmOHzp45s+/smR6Q2xvOnvGxnzVz5r60tDQgv2EfyM9AMSB/GZA+sxdmB8cnpoyWjcbCQDG7WTMl9zUWvf1QW13T
CtILUqcQO2Vf1wQbbZBekLm7ljH3Sa3atw3IBpm3F93NqpqWLJtW81oYGxtD3YUKBIInqk0P4pYGugurvNqXdr4/thPzQHbva3kn
HSh3YDrE/QhgU5qXbcdgUwzE+kDCkcHRicHJEYhcGACyEoHJ
"""
TRIE = """
eNrLzU0sUMjJVcgoKSmw0tfPzkhNTMtMzUnRS87P1U/OT0lVSMsvyk0sUShLLSrOzM9TMOViQIAGeyCxnxFI/AcCkAgjVIYZTB6w
Z4KKgTA7VI4NSjMhmQQTK6hT3GvZVsrA3tDlf4lL1Fzhmb9g0URmj5/H3rId/z7Liyvn+8fa4gfZ6sUaxhem91QjTDiwH+QgBP/Y
obNnzuyD8c6e8dk/a+ZMOD8tbdl+oPxeRjg/Dai/YR8TXH0P2DwWhF+B6n32sTKgAjYG7ODimTNfTI2NvwsZG2+WB/IVstLSvmWm
pf3YNHPmTJBAQl5a2ieQ7W5Ao+ONjYPzYVo5YAyg8necDAwX2JENtinNy7ZjsCm2Y3BkcHJ0YXB0YrDRB/KcHBkAQKdlBg==
"""


@pytest.fixture
def arpa(tmp_path: Path) -> Path:
    path = tmp_path / "trigram.arpa"
    path.write_text(ARPA)
    return path


@pytest.fixture(params=[PROBING, TRIE], ids=["probing", "trie"])
def binary(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "trigram.binary"
    path.write_bytes(zlib.decompress(base64.b64decode(request.param)))
    return path
