"""Compare greedy decoding of the shipped teacher with beam search and a language model on the test prompts.

    python examples/quickstart/lm.py    # one minute on one core; needs the extra [lm]

The language model is the bigram of bigram.py. Its weight and the word score are chosen for the lowest WER on the dev
prompts. Results are written to out/lm.json.
"""

import dataclasses
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np

from w2v_compress.data.manifest import read_manifest
from w2v_compress.data.prepare import prepare
from w2v_compress.evaluation.machine import describe_machine, peak_memory
from w2v_compress.evaluation.report import megabytes
from w2v_compress.evaluation.wer import compare, error_rate
from w2v_compress.files import write_json, write_text
from w2v_compress.interop.fairseq_checkpoint import export_checkpoint
from w2v_compress.runtime.decoding import Decoder, GreedyDecoder
from w2v_compress.runtime.decoding.beam_search import BeamSearchDecoder
from w2v_compress.runtime.decoding.words import LogProbs
from w2v_compress.runtime.recognizer import Recognizer

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE.parent), str(HERE)]

from bigram import Emissions, dev_rates, write_bigram  # noqa: E402
from common import run_in_folder  # noqa: E402

TEACHER = HERE / "teacher" / "teacher.pt"
HOUR_FRAMES = 3600 * 50


def cost_of_an_hour(log_probs: list[LogProbs], decoder: Decoder) -> dict[str, float]:
    """Measure the CPU time and memory that the decoder needs for an hour of `log_probs`, repeated as needed."""
    frames = np.concatenate(log_probs)
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
    write_bigram(data, lm)
    training = [utterance.text for utterance in read_manifest(data, "train")]
    write_text(lexicon, "\n".join(sorted(set(" ".join(training).split()))))
    recognizer = Recognizer.load(model, precision="fp32")
    header = recognizer.header
    search = partial(BeamSearchDecoder, header.units, header.seconds_per_frame)
    on_dev = dev_rates(recognizer, data, lm)
    best = min(on_dev, key=on_dev.__getitem__)
    test = Emissions.compute(recognizer, data, "test")
    decoders = {
        "greedy": GreedyDecoder(header.units, header.seconds_per_frame),
        "beam search alone": search(),
        "with the lexicon": search(lexicon=lexicon),
        "with the bigram": search(lm=lm, options=best),
    }
    counts = {name: test.errors(decoder) for name, decoder in decoders.items()}
    hour = cost_of_an_hour(test.log_probs, decoders["with the bigram"])
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
            for options, rate in on_dev.items()
        ],
        "hour_with_the_bigram": hour,
        "machine": describe_machine(),
    }
    write_json(out / "lm.json", results)


if __name__ == "__main__":
    run_in_folder(__doc__, run, HERE / "out")
