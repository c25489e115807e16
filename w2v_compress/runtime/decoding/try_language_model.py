"""A program for a process of its own: does KenLM survive a file? See `language_model`.

    python try_language_model.py FILE < WORDS

WORDS, one a line, are each looked up at the beginning of a sentence, followed by its end and by the next one.
Exit status 1, with the reason on standard error, says that KenLM refuses the file.
"""

import sys

from flashlight.lib.text.decoder.kenlm import KenLM
from flashlight.lib.text.dictionary import Dictionary


def main() -> None:
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
