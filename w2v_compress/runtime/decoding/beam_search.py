"""Prefix beam search with an n-gram language model and a lexicon, implemented by flashlight-text (the extra `[lm]`).

The search is prefix beam search (Hannun et al. 2014, "First-Pass Large Vocabulary Continuous Speech Recognition using
Bi-Directional Recurrent DNNs") over the trie of the lexicon (Collobert et al. 2016, "Wav2Letter", section 2.3). The
score of a hypothesis is

    log P(units | audio) + lm_weight * log10 P(words) + word_score * number of words

with KenLM's base-10 logarithm, as in flashlight and torchaudio, so weights tuned there can be reused.
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

from ...data.units import SPECIALS, Units
from ...errors import InputError
from ...extras import require
from .language_model import arpa_words, load_language_model
from .lexicon import Spelling, read_lexicon, spell
from .words import DecodedText, LogProbs, Word, seconds_at, words_of_path

BLANK = 0
UNUSED_UNIT = 2
"""`</s>`, which no network outputs; flashlight requires a silence unit, and sentencepiece units have none."""
IMPOSSIBLE = -1e4
"""Effectively zero probability: removes a hypothesis from the beam, yet keeps float32 sums of the others exact."""
MAX_UNITS_PER_FRAME = 100
"""Number of units, the most probable ones, by which a hypothesis is extended in a frame."""
MAX_HOMOPHONES = 6
"""Number of words with one spelling: flashlight's `Trie` stores no more."""
STEP_FRAMES = 1000
"""Number of frames decoded between two prunings of the beam's history."""
SETTLED_FRAMES = 1000
"""Number of frames kept when the history is pruned. This bounds memory; ambiguities never last 20 s."""


@dataclass(frozen=True, kw_only=True)
class BeamOptions:
    """Options of beam search. Raises `InputError` that names the invalid field."""

    beam: int = 100
    """Number of hypotheses kept in each frame."""
    beam_threshold: float = 25.0
    """Largest difference in score from the best hypothesis at which a hypothesis is kept."""
    lm_weight: float = 2.0
    """Weight of the language model's log10-probabilities."""
    word_score: float = 0.0
    """Score added for each word; a positive score gives more and shorter words."""

    def __post_init__(self) -> None:
        if isinstance(self.beam, bool) or not isinstance(self.beam, int) or self.beam < 1:
            raise InputError(f"`beam` is {self.beam!r}; it must be a whole number of at least 1")
        for name in ("beam_threshold", "lm_weight", "word_score"):
            if not math.isfinite(getattr(self, name)):
                raise InputError(f"`{name}` is {getattr(self, name)!r}; it must be a finite number")
        if self.beam_threshold <= 0:
            raise InputError(f"`beam_threshold` is {self.beam_threshold!r}; it must be above 0")


class BeamSearchDecoder:
    """Decode the words of the best hypothesis, with the times of its best path.

    With `lm` or `lexicon`, the output consists of words of the lexicon, by default the vocabulary of the ARPA file
    `lm`; with neither, of any sequence of units. The probability of a hypothesis is the sum over its CTC paths, but for
    sentencepiece units with a lexicon the maximum. A decoder must not be shared between threads.
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
        """Load the language model and the lexicon.

        Args:
            units: the units of the model, from its `Header`
            seconds_per_frame: the frame shift of the model, from its `Header`
            lm: a file for `load_language_model`
            lexicon: a file for `read_lexicon`
            options: the options of the search

        Raises `InputError` that names the invalid file or the missing extra.
        """
        self.units = units
        self.seconds_per_frame = seconds_per_frame
        self.lm = None if lm is None else Path(lm)
        self.lexicon = None if lexicon is None else Path(lexicon)
        self.options = BeamOptions() if options is None else options
        separator = units.word_separator
        self._is_spoken = [unit >= len(SPECIALS) and symbol != separator for unit, symbol in enumerate(units.symbols)]
        # Letters end a word with a unit of its own; sentencepiece words end with their last piece.
        self._word_end = units.symbols.index(separator) if units.kind == "letter" else None
        self._texts: list[str] = []
        """Text of each word, by its index in the search; empty without a lexicon."""
        flashlight = _flashlight()
        if self.lexicon is not None:
            self._search = self._build_lexicon_search(flashlight, read_lexicon(self.lexicon, units))
        elif self.lm is not None:
            self._search = self._build_lexicon_search(flashlight, spell(arpa_words(self.lm), units, self.lm))
        else:
            self._search = self._build_free_search(flashlight)

    def __call__(self, log_probs: LogProbs, /) -> DecodedText:
        """Decode log-probabilities `(frames, units)`.

        Raises `InputError` if the number of units is wrong or a log-probability is NaN or +infinity.
        """
        if log_probs.ndim != 2 or log_probs.shape[1] != len(self.units.symbols):
            raise InputError(
                f"beam search: the log-probabilities have shape {tuple(log_probs.shape)}; it must be "
                f"(frames, {len(self.units.symbols)})"
            )
        if not (log_probs < math.inf).all():
            raise InputError("beam search: a log-probability is not a number")
        if not len(log_probs):
            return DecodedText.from_words(())
        path, words = self._search_best_path(log_probs)
        if self._texts:
            return DecodedText.from_words(list(self._timed_words(path, words)))
        return words_of_path(path, self.units, self.seconds_per_frame)

    def settings(self) -> dict[str, Any]:
        """Return the settings of the decoder for a report, as values that JSON can store."""
        files = {
            name: None if path is None else str(path) for name, path in (("lm", self.lm), ("lexicon", self.lexicon))
        }
        return {"search": "beam", **files, **dataclasses.asdict(self.options)}

    def _build_free_search(self, flashlight: Any) -> Any:
        options = flashlight.LexiconFreeDecoderOptions(
            beam_size=self.options.beam,
            beam_size_token=min(MAX_UNITS_PER_FRAME, len(self.units.symbols)),
            beam_threshold=self.options.beam_threshold,
            lm_weight=0.0,
            sil_score=0.0,
            log_add=True,
            criterion_type=flashlight.CriterionType.CTC,
        )
        return flashlight.LexiconFreeDecoder(options, flashlight.ZeroLM(), UNUSED_UNIT, BLANK, [])

    def _build_lexicon_search(self, flashlight: Any, spellings: list[Spelling]) -> Any:
        texts = {spelling.word: spelling.text for spelling in spellings}
        self._texts = list(texts.values())
        model = flashlight.ZeroLM() if self.lm is None else load_language_model(self.lm, list(texts))
        start = model.start(False)
        scores = [model.score(start, word)[1] for word in range(len(texts))]
        numbers = {word: number for number, word in enumerate(texts)}
        silence = UNUSED_UNIT if self._word_end is None else self._word_end
        trie = flashlight.Trie(len(self.units.symbols), silence)
        homophones: Counter[tuple[int, ...]] = Counter()
        max_homophones = 1 if self.lm is None else MAX_HOMOPHONES  # only a language model can distinguish them
        for spelling in sorted(spellings, key=lambda spelling: -scores[numbers[spelling.word]]):
            homophones[spelling.units] += 1
            if homophones[spelling.units] <= max_homophones:
                number = numbers[spelling.word]
                for units in self._trie_entries(spelling.units):
                    trie.insert(units, number, scores[number])
        trie.smear(flashlight.SmearingMode.MAX)
        options = flashlight.LexiconDecoderOptions(
            beam_size=self.options.beam,
            beam_size_token=min(MAX_UNITS_PER_FRAME, len(self.units.symbols)),
            beam_threshold=self.options.beam_threshold,
            lm_weight=self.options.lm_weight,
            word_score=self.options.word_score,
            unk_score=-math.inf,
            sil_score=0.0,
            log_add=self._word_end is not None,  # two trie entries for a word would count paths twice
            criterion_type=flashlight.CriterionType.CTC,
        )
        return flashlight.LexiconDecoder(options, trie, model, silence, BLANK, -1, [], False)

    def _trie_entries(self, units: tuple[int, ...]) -> list[list[int]]:
        """Return the sequences to insert into the trie for a spelling.

        flashlight leaves a word at the first frame of its last unit, so that unit cannot be repeated. For letters this
        is the word separator, which need not be; a last sentencepiece piece may be repeated if a blank follows.
        """
        return [list(units)] if self._word_end is not None else [list(units), [*units, BLANK]]

    def _search_best_path(self, log_probs: LogProbs) -> tuple[list[int], list[int]]:
        """Return for each frame of the best path its unit, and the index of the word that ends there or -1."""
        path: list[int] = []
        words: list[int] = []
        self._search.decode_begin()
        for start in range(0, len(log_probs), STEP_FRAMES):
            if start:
                settled = self._search.get_best_hypothesis(SETTLED_FRAMES)
                path += settled.tokens[1:]  # the first belongs to the previous frame
                words += settled.words[1:]
                self._search.prune(SETTLED_FRAMES)
            end = start + STEP_FRAMES
            emissions = self._emissions(log_probs[start:end], last=end >= len(log_probs))
            self._search.decode_step(emissions.ctypes.data, *emissions.shape)
        self._search.decode_end()
        best = self._search.get_all_final_hypothesis()[0]
        return path + best.tokens[1:-1], words + best.words[1:-1]  # the last belongs to no frame

    def _emissions(self, log_probs: LogProbs, last: bool) -> npt.NDArray[np.float32]:
        """Return contiguous log-probabilities `(frames, units)` in which all specials but the blank are impossible.

        With `last`, append a frame in which a word may end at no cost: networks often omit the final word separator.
        """
        frames, units = log_probs.shape
        emissions = np.full((frames + last, units), IMPOSSIBLE, np.float32)
        emissions[:frames] = np.maximum(log_probs, IMPOSSIBLE)
        emissions[:frames, BLANK + 1 : len(SPECIALS)] = IMPOSSIBLE
        if last:
            emissions[-1, self._word_end if self._texts and self._word_end is not None else BLANK] = 0
        return emissions

    def _timed_words(self, path: list[int], words: list[int]) -> Iterator[Word]:
        """Yield each word, which spans the first to the last spoken frame since the previous word."""
        first = None
        for frame, (unit, word) in enumerate(zip(path, words, strict=True)):
            if self._is_spoken[unit]:
                first, last = frame if first is None else first, frame
            if word >= 0:
                if first is None:  # pruning the history can leave only the end of a word
                    first = last = frame
                yield Word(
                    self._texts[word],
                    seconds_at(first, self.seconds_per_frame),
                    seconds_at(last + 1, self.seconds_per_frame),
                )
                first = None


def _flashlight() -> Any:
    return require("beam search", "lm", "flashlight.lib.text.decoder")
