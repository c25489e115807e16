"""Prefix beam search with an n-gram language model and a lexicon, by flashlight-text: the extra `[lm]`.

The search is that of Hannun et al. 2014, "First-Pass Large Vocabulary Continuous Speech Recognition using
Bi-Directional Recurrent DNNs", over the tree of the lexicon (Collobert et al. 2016, "Wav2Letter", section 2.3). A
hypothesis scores

    log P(units | audio) + lm_weight * log10 P(words) + word_score * number of words

where KenLM's logarithm is to the base of 10, as it is in flashlight and torchaudio: weights found there can be kept.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...data.units import SPECIALS, Units
from ...errors import InputError
from ...extras import require
from .language_model import arpa_words, load_language_model
from .lexicon import Spelling, read_lexicon, spell
from .words import Decoded, Word, seconds_at, words_of_path

BLANK = 0
NEVER_USED = 2
"""`</s>`, which no network is trained to write; flashlight wants a silent unit, and sentencepiece units have none."""
IMPOSSIBLE = -1e4
"""A log-probability that no hypothesis in the beam survives, small enough to leave the others' sums exact."""
MOST_CHOICES = 100
"""Units that a hypothesis may go on with in a frame: the likeliest."""
MOST_HOMOPHONES = 6
"""Words of one spelling: flashlight's `Trie` takes no more."""
STEP_FRAMES = 1000
SETTLED_FRAMES = 1000
"""The beam's history is cut so far back after each step, which bounds memory: no open choice lasts 20 s."""


@dataclass(frozen=True, kw_only=True)
class BeamOptions:
    """Settings of the search. Raises `InputError` that names the one that is wrong."""

    beam: int = 100
    """Hypotheses kept in each frame."""
    beam_threshold: float = 25.0
    """How far below the best a hypothesis may score and be kept."""
    lm_weight: float = 2.0
    """Of the language model's log10-probabilities."""
    word_score: float = 0.0
    """Added for every word: above 0, words become more and shorter."""

    def __post_init__(self) -> None:
        if isinstance(self.beam, bool) or not isinstance(self.beam, int) or self.beam < 1:
            raise InputError(f"`beam` is {self.beam!r}; it must be a whole number of at least 1")
        for name in ("beam_threshold", "lm_weight", "word_score"):
            if not math.isfinite(getattr(self, name)):
                raise InputError(f"`{name}` is {getattr(self, name)!r}; it must be a finite number")
        if self.beam_threshold <= 0:
            raise InputError(f"`beam_threshold` is {self.beam_threshold!r}; it must be above 0")


class BeamSearchDecoder:
    """The words of the best hypothesis, with the times of its best path.

    With `lm` or `lexicon`, only words of the lexicon are written: the vocabulary of the ARPA file `lm`, unless
    `lexicon` names another. With neither, any sequence of units is. It is as probable as all paths through the frames
    that write it; words of sentencepiece units are as probable as the best of them. One decoder is for one thread at a
    time.
    """

    def __init__(
        self,
        units: Units,
        seconds_per_frame: float,
        *,
        lm: str | Path | None = None,
        lexicon: str | Path | None = None,
        options: BeamOptions | None = None,
    ) -> None:
        """`units` and `seconds_per_frame` as the model's `Header` has them; `lm` and `lexicon` as `load_language_model`
        and `read_lexicon` read them. Raises `InputError` that names the file that is wrong, or the extra that is
        missing.
        """
        self.units = units
        self.seconds_per_frame = seconds_per_frame
        self.lm = None if lm is None else Path(lm)
        self.lexicon = None if lexicon is None else Path(lexicon)
        self.options = BeamOptions() if options is None else options
        separator = units.word_separator
        self._sounds = [unit >= len(SPECIALS) and symbol != separator for unit, symbol in enumerate(units.symbols)]
        # The unit that ends a word: letters have one; a sentencepiece piece ends with its last frame.
        self._word_end = units.symbols.index(separator) if units.kind == "letter" else None
        self._texts: list[str] = []
        """Of the words, by the search's number for them."""
        flashlight = _flashlight()
        if self.lexicon is not None:
            self._search = self._lexicon_search(flashlight, read_lexicon(self.lexicon, units))
        elif self.lm is not None:
            self._search = self._lexicon_search(flashlight, spell(arpa_words(self.lm), units, self.lm))
        else:
            self._search = self._free_search(flashlight)

    def __call__(self, log_probs: Tensor, /) -> Decoded:
        """(frames, units) log-probabilities -> words. Raises `InputError` when they are of other units or one is not a
        number.
        """
        if log_probs.ndim != 2 or log_probs.shape[1] != len(self.units.symbols):
            raise InputError(
                f"beam search: the log-probabilities have shape {tuple(log_probs.shape)}; it must be "
                f"(frames, {len(self.units.symbols)})"
            )
        if not (log_probs < math.inf).all():
            raise InputError("beam search: a log-probability is not a number")
        if not len(log_probs):
            return Decoded.of(())
        path, words = self._best(log_probs)
        if self._texts:
            return Decoded.of(list(self._words(path, words)))
        return words_of_path(torch.tensor(path), self.units, self.seconds_per_frame)

    def settings(self) -> dict[str, Any]:
        """What a report says of the decoder, JSON-able."""
        files = {
            name: None if path is None else str(path) for name, path in (("lm", self.lm), ("lexicon", self.lexicon))
        }
        return {"search": "beam", **files, **dataclasses.asdict(self.options)}

    def _free_search(self, flashlight: Any) -> Any:
        options = flashlight.LexiconFreeDecoderOptions(
            beam_size=self.options.beam,
            beam_size_token=min(MOST_CHOICES, len(self.units.symbols)),
            beam_threshold=self.options.beam_threshold,
            lm_weight=0.0,
            sil_score=0.0,
            log_add=True,
            criterion_type=flashlight.CriterionType.CTC,
        )
        return flashlight.LexiconFreeDecoder(options, flashlight.ZeroLM(), NEVER_USED, BLANK, [])

    def _lexicon_search(self, flashlight: Any, spellings: list[Spelling]) -> Any:
        texts = {spelling.word: spelling.text for spelling in spellings}
        self._texts = list(texts.values())
        model = flashlight.ZeroLM() if self.lm is None else load_language_model(self.lm, list(texts))
        start = model.start(False)
        scores = [model.score(start, word)[1] for word in range(len(texts))]
        numbers = {word: number for number, word in enumerate(texts)}
        silence = NEVER_USED if self._word_end is None else self._word_end
        trie = flashlight.Trie(len(self.units.symbols), silence)
        homophones: Counter[tuple[int, ...]] = Counter()
        most = 1 if self.lm is None else MOST_HOMOPHONES  # nothing tells them apart without a language model
        for spelling in sorted(spellings, key=lambda spelling: -scores[numbers[spelling.word]]):
            homophones[spelling.units] += 1
            if homophones[spelling.units] <= most:
                number = numbers[spelling.word]
                for units in self._paths(spelling.units):
                    trie.insert(units, number, scores[number])
        trie.smear(flashlight.SmearingMode.MAX)
        options = flashlight.LexiconDecoderOptions(
            beam_size=self.options.beam,
            beam_size_token=min(MOST_CHOICES, len(self.units.symbols)),
            beam_threshold=self.options.beam_threshold,
            lm_weight=self.options.lm_weight,
            word_score=self.options.word_score,
            unk_score=-math.inf,
            sil_score=0.0,
            log_add=self._word_end is not None,  # the two entries of `_paths` would count paths twice
            criterion_type=flashlight.CriterionType.CTC,
        )
        return flashlight.LexiconDecoder(options, trie, model, silence, BLANK, -1, [], False)

    def _paths(self, units: tuple[int, ...]) -> list[list[int]]:
        """What the tree of words holds for a spelling.

        flashlight leaves a word with the first frame of its last unit, which is then not to be repeated. That suits
        letters, whose last unit is the end of the word; a sentencepiece piece may last until a blank.
        """
        return [list(units)] if self._word_end is not None else [list(units), [*units, BLANK]]

    def _best(self, log_probs: Tensor) -> tuple[list[int], list[int]]:
        """The best path: of each frame the unit, and the number of the word that it ends or -1."""
        path: list[int] = []
        words: list[int] = []
        self._search.decode_begin()
        for start in range(0, len(log_probs), STEP_FRAMES):
            if start:
                settled = self._search.get_best_hypothesis(SETTLED_FRAMES)
                path += settled.tokens[1:]  # the first is of the frame before
                words += settled.words[1:]
                self._search.prune(SETTLED_FRAMES)
            end = start + STEP_FRAMES
            emissions = self._emissions(log_probs[start:end], last=end >= len(log_probs))
            self._search.decode_step(emissions.ctypes.data, *emissions.shape)
        self._search.decode_end()
        best = self._search.get_all_final_hypothesis()[0]
        return path + best.tokens[1:-1], words + best.words[1:-1]  # the last is of no frame

    def _emissions(self, log_probs: Tensor, last: bool) -> npt.NDArray[np.float32]:
        """(frames, units) contiguous, in which specials but the blank are impossible.

        After the last frame comes one more, in which a word may end at no cost: networks often leave that unwritten.
        """
        frames, units = log_probs.shape
        emissions = np.full((frames + last, units), IMPOSSIBLE, np.float32)
        emissions[:frames] = log_probs.float().clamp(min=IMPOSSIBLE).numpy(force=True)
        emissions[:frames, BLANK + 1 : len(SPECIALS)] = IMPOSSIBLE
        if last:
            emissions[-1, self._word_end if self._texts and self._word_end is not None else BLANK] = 0
        return emissions

    def _words(self, path: list[int], words: list[int]) -> Iterator[Word]:
        """Each word lasts from the first to the last frame of a unit since the word before."""
        first = None
        for frame, (unit, word) in enumerate(zip(path, words, strict=True)):
            if self._sounds[unit]:
                first, last = frame if first is None else first, frame
            if word >= 0:
                if first is None:  # where the history was cut, a word may be left with its end alone
                    first = last = frame
                yield Word(
                    self._texts[word],
                    seconds_at(first, self.seconds_per_frame),
                    seconds_at(last + 1, self.seconds_per_frame),
                )
                first = None


def _flashlight() -> Any:
    return require("beam search", "lm", "flashlight.lib.text.decoder")
