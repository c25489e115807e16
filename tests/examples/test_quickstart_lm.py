"""The bigram of examples/quickstart/bigram.py is a probability distribution; the docs show the recorded rates."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from w2v_compress.evaluation.wer import Interval

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = ROOT / "examples" / "quickstart"


def test_the_bigram_sums_to_one_after_every_word(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arpa_log10: Callable[[Path, str], list[float]]
) -> None:
    monkeypatch.setattr(sys, "path", [str(QUICKSTART), *sys.path])
    from bigram import bigram_arpa

    texts = ["press one now", "press two", "press one", "now press the pound key", "hello"]
    path = tmp_path / "bigram.arpa"
    path.write_text(bigram_arpa(texts))
    words = [*sorted(set(" ".join(texts).split())), "unknown"]
    for history in ("", *words[:-1]):
        place = len(history.split())
        total = sum(10 ** arpa_log10(path, f"{history} {word}")[place] for word in words)
        assert total + 10 ** arpa_log10(path, history)[-1] == pytest.approx(1, abs=1e-4)
    assert sum(arpa_log10(path, "press one now")) > sum(arpa_log10(path, "now one press"))


def test_the_documented_rates_are_the_recorded_ones() -> None:
    results = json.loads((QUICKSTART / "results" / "lm.json").read_text(encoding="utf-8"))
    text = (ROOT / "docs" / "decoding.md").read_text(encoding="utf-8")
    for rate in results["test_wer"].values():
        assert Interval(**rate).percent() in text
    assert results["command"] in text
