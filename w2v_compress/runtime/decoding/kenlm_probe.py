"""Probe a KenLM file in a subprocess, which KenLM may crash; `language_model` starts it for binary files.

    python kenlm_probe.py FILE < WORDS

WORDS, one a line, are each looked up at the start of a sentence, followed by the next word and by the sentence end.
Exit status 0 means that the file is usable, 1 that KenLM rejects it, with the reason on standard error.
"""

import sys

from flashlight.lib.text.decoder.kenlm import KenLM
from flashlight.lib.text.dictionary import Dictionary


def main() -> None:
    """Load the file named on the command line, and look up every word on standard input."""
    words = sys.stdin.buffer.read().decode("utf-8").split("\n")
    try:
        model = KenLM(sys.argv[1], Dictionary(words))
    except RuntimeError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    start = model.start(False)
    for word in range(len(words)):
        state, _ = model.score(start, word)
        model.finish(state)
        state, _ = model.score(state, (word + 1) % len(words))
        model.finish(state)


if __name__ == "__main__":
    main()
