"""Compare greedy decoding of the shipped teacher with beam search and a language model on the test prompts.

    python examples/quickstart/lm.py    # one minute on one core; needs the extra [lm]

The language model is a bigram of the texts of the training prompts with absolute discounting (Ney, Essen and Kneser
1994, "On Structuring Probabilistic Dependences in Stochastic Language Modelling"), written as an ARPA file. Its weight
and the word score are chosen for the lowest WER on the dev prompts. Results are written to out/lm.json.
"""

import argparse
import dataclasses
import itertools
import math
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from w2v_compress.data.manifest import read_manifest
from w2v_compress.data.prepare import prepare
from w2v_compress.errors import InputError
from w2v_compress.evaluation.machine import describe_machine, peak_memory
from w2v_compress.evaluation.report import megabytes
from w2v_compress.evaluation.wer import ErrorCounts, compare, error_rate, word_errors
from w2v_compress.files import write_json, write_text
from w2v_compress.interop.fairseq_checkpoint import export_checkpoint
from w2v_compress.runtime.decoding import Decoder, GreedyDecoder
from w2v_compress.runtime.decoding.beam_search import BeamOptions, BeamSearchDecoder
from w2v_compress.runtime.decoding.words import LogProbs
from w2v_compress.runtime.recognizer import Recognizer

HERE = Path(__file__).resolve().parent
TEACHER = HERE / "teacher" / "teacher.pt"
LM_WEIGHTS = (1.0, 2.0, 3.0, 4.0, 5.0)
WORD_SCORES = (0.0, 2.0, 4.0, 6.0, 8.0)
HOUR_FRAMES = 3600 * 50
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

    def hour(self, decoder: Decoder) -> dict[str, float]:
        """Measure the CPU time and memory that the decoder needs for an hour of the subset, repeated as needed."""
        frames = np.concatenate(self.log_probs)
        frames = np.tile(frames, (-(-HOUR_FRAMES // len(frames)), 1))[:HOUR_FRAMES]
        before, began = peak_memory("cpu"), time.process_time()
        words = len(decoder(frames).words)
        seconds = time.process_time() - began
        return {"words": words, "processor_seconds": seconds, "added_bytes": peak_memory("cpu") - before}


def run(out: Path) -> None:
    """Tune the language model on dev, compare the decoders on test, and write the results."""
    data, model, lm, lexicon = (out / name for name in ("data", "teacher.safetensors", "bigram.arpa", "lexicon.txt"))
    out.mkdir(parents=True, exist_ok=True)
    if not (data / "test.tsv").exists():
        print(prepare("csv", HERE / "corpus", data).summary())
    if not model.exists():
        export_checkpoint(TEACHER, model)
    training = [utterance.text for utterance in read_manifest(data, "train")]
    write_text(lm, bigram_arpa(training))
    write_text(lexicon, "\n".join(sorted(set(" ".join(training).split()))))
    recognizer = Recognizer.load(model, precision="fp32")
    header = recognizer.header
    search = partial(BeamSearchDecoder, header.units, header.seconds_per_frame)
    dev, test = Emissions.compute(recognizer, data, "dev"), Emissions.compute(recognizer, data, "test")
    grid = [
        BeamOptions(lm_weight=lm_weight, word_score=word_score)
        for lm_weight, word_score in itertools.product(LM_WEIGHTS, WORD_SCORES)
    ]
    dev_rates = [dev.errors(search(lm=lm, options=options)).rate for options in grid]
    best = grid[dev_rates.index(min(dev_rates))]
    decoders = {
        "greedy": GreedyDecoder(header.units, header.seconds_per_frame),
        "beam search alone": search(),
        "with the lexicon": search(lexicon=lexicon),
        "with the bigram": search(lm=lm, options=best),
    }
    counts = {name: test.errors(decoder) for name, decoder in decoders.items()}
    hour = test.hour(decoders["with the bigram"])
    difference = compare(counts["greedy"], counts["with the bigram"])
    rates = {name: error_rate(each) for name, each in counts.items()}
    for name, rate in rates.items():
        print(f"{name:>17}: {rate.percent()}")
    print(f"bigram minus greedy: {difference.percent()}; chosen on dev: {best}")
    print(f"one hour of audio: {hour['processor_seconds']:.0f} s of CPU time, {megabytes(hour['added_bytes'])}")
    results = {
        "command": "python examples/quickstart/lm.py",
        "test_wer": {name: dataclasses.asdict(rate) for name, rate in rates.items()},
        "bigram_minus_greedy": dataclasses.asdict(difference),
        "chosen_on_dev": dataclasses.asdict(best),
        "dev_wer": [
            {"lm_weight": options.lm_weight, "word_score": options.word_score, "wer": rate}
            for options, rate in zip(grid, dev_rates, strict=True)
        ],
        "hour_with_the_bigram": hour,
        "machine": describe_machine(),
    }
    write_json(out / "lm.json", results)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "out", help="output folder (default: %(default)s)")
    arguments = parser.parse_args()
    try:
        run(arguments.out)
    except InputError as error:
        sys.exit(f"quickstart: {error}")
