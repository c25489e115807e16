"""A bigram language model of the quickstart's training prompts, and the choice of its weight on dev.

Absolute discounting (Ney, Essen and Kneser 1994, "On Structuring Probabilistic Dependences in Stochastic Language
Modelling"), written as an ARPA file.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from w2v_compress.data.manifest import read_manifest
from w2v_compress.evaluation.wer import ErrorCounts, word_errors
from w2v_compress.files import write_text
from w2v_compress.runtime.decoding import Decoder
from w2v_compress.runtime.decoding.beam_search import BeamOptions, BeamSearchDecoder
from w2v_compress.runtime.decoding.words import LogProbs
from w2v_compress.runtime.recognizer import Recognizer

LM_WEIGHTS = (1.0, 2.0, 3.0, 4.0, 5.0)
WORD_SCORES = (0.0, 2.0, 4.0, 6.0, 8.0)
BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"


def bigram_arpa(texts: Iterable[str]) -> str:
    """Return the ARPA file of an interpolated bigram, whose discounted probability mass goes to the unigrams."""
    sentences = [[BEGIN, *text.split(), END] for text in texts]
    words = Counter(word for sentence in sentences for word in sentence[1:])
    pairs = Counter(pair for sentence in sentences for pair in itertools.pairwise(sentence))
    followed = Counter(first for first, _ in pairs.elements())
    successors = Counter(first for first, _ in pairs)
    total, word_discount, pair_discount = words.total(), discount(words), discount(pairs)
    unigrams = {word: (count - word_discount) / total for word, count in words.items()}
    unigrams[UNKNOWN] = word_discount * len(words) / total
    backoffs = {first: pair_discount * successors[first] / followed[first] for first in followed}
    bigrams = {
        (first, second): (count - pair_discount) / followed[first] + backoffs[first] * unigrams[second]
        for (first, second), count in pairs.items()
    }
    lines = ["\\data\\", f"ngram 1={len(unigrams) + 1}", f"ngram 2={len(bigrams)}", "", "\\1-grams:"]
    lines.append(f"-99\t{BEGIN}\t{math.log10(backoffs[BEGIN]):.6f}")
    for word, probability in sorted(unigrams.items()):
        lines.append(f"{math.log10(probability):.6f}\t{word}\t{math.log10(backoffs.get(word, 1)):.6f}")
    lines += ["", "\\2-grams:"]
    lines += [f"{math.log10(probability):.6f}\t{' '.join(pair)}" for pair, probability in sorted(bigrams.items())]
    return "\n".join([*lines, "", "\\end\\", ""])


def discount(counts: Counter[Any]) -> float:
    """Return the absolute discount, estimated from the number of counts of 1 and 2 (Ney, Essen and Kneser 1994)."""
    once, twice = (sum(count == times for count in counts.values()) for times in (1, 2))
    return once / (once + 2 * twice)


@dataclass(frozen=True)
class Emissions:
    """The reference texts and the log-probabilities (frames, units) of a subset, to decode in several ways."""

    texts: list[str]
    log_probs: list[LogProbs]

    @classmethod
    def compute(cls, recognizer: Recognizer, data: Path, subset: str) -> "Emissions":
        """Compute the log-probabilities of a subset."""
        utterances = read_manifest(data, subset)
        return cls([each.text for each in utterances], [recognizer.emissions(each.path) for each in utterances])

    def errors(self, decoder: Decoder) -> ErrorCounts:
        """Count the word errors of a decoder."""
        return word_errors(self.texts, [decoder(each).text for each in self.log_probs])


def dev_rates(recognizer: Recognizer, data: Path, lm: Path) -> dict[BeamOptions, float]:
    """Return the WER on the dev prompts of beam search with the language model `lm`, by its options."""
    dev = Emissions.compute(recognizer, data, "dev")
    search = partial(BeamSearchDecoder, recognizer.header.units, recognizer.header.seconds_per_frame, lm=lm)
    pairs = itertools.product(LM_WEIGHTS, WORD_SCORES)
    grid = [BeamOptions(lm_weight=lm_weight, word_score=word_score) for lm_weight, word_score in pairs]
    return {options: dev.errors(search(options=options)).rate for options in grid}


def write_bigram(data: Path, path: Path) -> None:
    """Write the bigram of the training texts in `data` as an ARPA file."""
    write_text(path, bigram_arpa(utterance.text for utterance in read_manifest(data, "train")))
