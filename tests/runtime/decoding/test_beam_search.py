"""Beam search compared with brute force over all paths, and with greedy decoding where the units are clear."""

import itertools
import math
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from w2v_compress.data.units import SPECIALS, Units
from w2v_compress.errors import InputError
from w2v_compress.runtime.decoding import DecodedText, GreedyDecoder
from w2v_compress.runtime.decoding import beam_search as module
from w2v_compress.runtime.decoding.beam_search import BeamOptions, BeamSearchDecoder
from w2v_compress.runtime.decoding.words import LogProbs
from w2v_compress.runtime.engines.torch_engine import TorchEngine

pytest.importorskip("flashlight.lib.text.decoder")

HOP = 0.02
UNITS = Units("letter", (*SPECIALS, "|", "A", "B"))
BLANK, END, A, B = 0, 4, 5, 6
EVERYTHING = {"beam": 100_000, "beam_threshold": 1000.0}
LM_WEIGHT, WORD_SCORE = 1.3, -0.4


def random_log_probs(frames: int, seed: int, units: Units = UNITS, sharpness: float = 2.0) -> LogProbs:
    return log_softmax(np.random.default_rng(seed).normal(scale=sharpness, size=(frames, len(units.symbols))))


def log_softmax(logits: npt.NDArray[np.float64]) -> LogProbs:
    return (logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)).astype(np.float32)


def paths(log_probs: LogProbs, choices: tuple[int, ...]) -> list[tuple[tuple[int, ...], float]]:
    """All paths of units in `choices` through the frames, with their log-probabilities."""
    rows = log_probs.tolist()
    return [
        (path, sum(row[unit] for row, unit in zip(rows, path, strict=True)))
        for path in itertools.product(choices, repeat=len(rows))
    ]


def collapsed(path: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(unit for unit, _ in itertools.groupby(path) if unit != BLANK)


def sums(scored: list[tuple[Any, float]]) -> dict[Any, float]:
    """The logarithm of the summed probabilities of each key."""
    groups = defaultdict(list)
    for key, score in scored:
        groups[key].append(score)
    return {key: float(np.logaddexp.reduce(scores)) for key, scores in groups.items()}


@pytest.fixture
def words_score(arpa: Path, arpa_log10: Callable[[Path, str], list[float]]) -> Callable[[str], float]:
    """The contribution of the words of a text to its score."""
    return lambda text: LM_WEIGHT * sum(arpa_log10(arpa, text)) + WORD_SCORE * len(text.split())


@pytest.mark.parametrize("seed", range(40))
def test_without_a_lexicon_all_paths_of_units_are_summed(seed: int) -> None:
    log_probs = random_log_probs(5, seed)
    expected = sums([(collapsed(path), score) for path, score in paths(log_probs, (BLANK, END, A, B))])
    decoder = BeamSearchDecoder(UNITS, HOP, options=BeamOptions(**EVERYTHING))
    best = max(expected, key=lambda units: expected[units])
    assert decoder(log_probs).text == UNITS.decode(best)


@pytest.mark.parametrize("seed", range(40))
def test_with_letters_all_paths_of_words_are_summed(seed: int, arpa: Path, words_score: Callable[[str], float]) -> None:
    """The last word needs no separator, and several separators between words count as one."""
    log_probs = random_log_probs(6, seed)
    texts = sums([(UNITS.decode(collapsed(path)), score) for path, score in paths(log_probs, (BLANK, END, A, B))])
    expected = {
        text: score + words_score(text) for text, score in texts.items() if set(text.split()) <= {"A", "AB", "BA"}
    }
    options = BeamOptions(**EVERYTHING, lm_weight=LM_WEIGHT, word_score=WORD_SCORE)
    with pytest.warns(UserWarning, match="1 words are left out, for which the model has no units: BAD"):
        decoder = BeamSearchDecoder(UNITS, HOP, lm=arpa, options=options)
    best = max(expected, key=lambda text: expected[text])
    assert decoder(log_probs).text == best


CROSSINGS = [("lm_weight", 2), ("lm_weight", 3), ("word_score", 0), ("word_score", 1), ("word_score", 2)]
"""Options, and seeds for which the best text depends on their values."""


@pytest.mark.parametrize(("option", "seed"), CROSSINGS)
def test_weights_change_the_text_exactly_where_scores_cross(
    option: str, seed: int, arpa: Path, arpa_log10: Callable[[Path, str], list[float]]
) -> None:
    log_probs = random_log_probs(6, seed)
    acoustic = sums([(UNITS.decode(collapsed(path)), score) for path, score in paths(log_probs, (BLANK, END, A, B))])
    texts = [text for text in acoustic if set(text.split()) <= {"A", "AB", "BA"}]
    language = {text: sum(arpa_log10(arpa, text)) for text in texts}

    def best(value: float) -> str:
        lm_weight, word_score = (value, WORD_SCORE) if option == "lm_weight" else (LM_WEIGHT, value)
        return max(texts, key=lambda t: acoustic[t] + lm_weight * language[t] + word_score * len(t.split()))

    crossings = 0
    for low, high in itertools.pairwise(np.arange(0.02, 8, 0.05).tolist()):
        if best(low) != best(high):
            crossings += 1
            for value in (low, high):
                options = BeamOptions(**EVERYTHING, **{"lm_weight": LM_WEIGHT, "word_score": WORD_SCORE, option: value})
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    decoder = BeamSearchDecoder(UNITS, HOP, lm=arpa, options=options)
                assert decoder(log_probs).text == best(value)
    assert crossings


@pytest.fixture(scope="module")
def pieces() -> Units:
    return Units.train_sentencepiece(["A AB BA", "BA AB A A", "ABBA BAAB"] * 3, 4)


@pytest.mark.parametrize("seed", range(24))
def test_with_sentencepiece_the_best_path_of_words_counts(
    seed: int, arpa: Path, words_score: Callable[[str], float], pieces: Units
) -> None:
    """Paths in which a word's last piece is repeated and no blank follows are not searched."""
    log_probs = random_log_probs(5, seed, pieces)
    choices = (BLANK, *range(len(SPECIALS), len(pieces.symbols)))
    spelled = {word: tuple(pieces.encode(word)) for word in ("A", "AB", "BA")}
    texts = {
        sum((spelled[word] for word in words), ()): words
        for count in range(6)
        for words in itertools.product(spelled, repeat=count)
    }
    expected: dict[str, float] = defaultdict(lambda: -math.inf)
    for path, score in paths(log_probs, choices):
        words = texts.get(collapsed(path))
        if words is not None and not repeats_last_piece(path, [spelled[word] for word in words]):
            text = " ".join(words)
            expected[text] = max(expected[text], score + words_score(text))
    options = BeamOptions(**EVERYTHING, lm_weight=LM_WEIGHT, word_score=WORD_SCORE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        decoder = BeamSearchDecoder(pieces, HOP, lm=arpa, options=options)
    best = max(expected, key=lambda text: expected[text])
    assert decoder(log_probs).text == best


def repeats_last_piece(path: tuple[int, ...], words: list[tuple[int, ...]]) -> bool:
    """Whether the last piece of a word is repeated and another piece follows without a blank."""
    last = set(itertools.accumulate(map(len, words)))
    runs = [(unit, len(list(run))) for unit, run in itertools.groupby(path)]
    place = 0
    for (unit, frames), (following, _) in itertools.pairwise(runs):
        place += unit != BLANK
        if unit != BLANK and place in last and frames > 1 and following != BLANK:
            return True
    return False


def spoken(text: str, units: Units, seed: int = 0, noise: float = 0.5) -> LogProbs:
    """Log-probabilities in which the units of `text` are clear, separated by blanks of random length."""
    generator = np.random.default_rng(seed)
    path = [BLANK] * 3
    for unit in units.encode(text):
        path += [unit] * int(generator.integers(1, 4)) + [BLANK] * int(generator.integers(1, 4))
    logits = generator.normal(scale=noise, size=(len(path), len(units.symbols)))
    logits[np.arange(len(path)), path] += 8
    return log_softmax(logits)


@pytest.mark.parametrize("kind", ["letters", "pieces"])
def test_times_are_those_of_greedy_decoding_where_all_is_clear(kind: str, pieces: Units, tmp_path: Path) -> None:
    units = pieces if kind == "pieces" else Units.letters()
    lexicon = tmp_path / "lexicon"
    lexicon.write_text("A\nAB\nBA\nABBA\n")
    greedy = GreedyDecoder(units, HOP)
    for text in ("A AB BA", "ABBA A A ABBA", "BA"):
        log_probs = spoken(text, units)
        expected = greedy(log_probs)
        assert expected.text == text
        for decoder in (BeamSearchDecoder(units, HOP), BeamSearchDecoder(units, HOP, lexicon=lexicon)):
            assert decoder(log_probs) == expected


def test_the_language_model_decides_what_the_network_cannot(tmp_path: Path, arpa: Path) -> None:
    units = Units.letters()
    log_probs = spoken("A AB", units)
    frame = np.flatnonzero(log_probs.argmax(-1) == units.encode("B")[0])[0]
    log_probs[frame, units.encode("C")[0]] = log_probs[frame, units.encode("B")[0]] + 0.1
    lexicon = tmp_path / "lexicon"
    lexicon.write_text("A\nAB\nAC\n")
    assert BeamSearchDecoder(units, HOP, lexicon=lexicon)(log_probs).text == "A AC"
    assert BeamSearchDecoder(units, HOP, lm=arpa, lexicon=lexicon)(log_probs).text == "A AB"


def test_binary_files_decide_as_the_arpa_file_does(arpa: Path, binary: Path, tmp_path: Path) -> None:
    lexicon = tmp_path / "lexicon"
    lexicon.write_text("A\nAB\nBA\nBAD\n")
    expected = BeamSearchDecoder(Units.letters(), HOP, lm=arpa)
    decoder = BeamSearchDecoder(Units.letters(), HOP, lm=binary, lexicon=lexicon)
    for seed in range(3):
        log_probs = spoken("A BAD AB BA", Units.letters(), seed, noise=3.0)
        assert decoder(log_probs) == expected(log_probs)


def test_silence_gives_no_words(arpa: Path) -> None:
    units = Units.letters()
    silence = np.full((60, 32), -20, np.float32)
    silence[:, BLANK] = 0.0
    for decoder in (BeamSearchDecoder(units, HOP), BeamSearchDecoder(units, HOP, lm=arpa)):
        assert decoder(np.zeros((0, 32), np.float32)) == DecodedText("", ())
        assert decoder(silence) == DecodedText("", ())
        assert decoder(silence[:1]) == DecodedText("", ())
        with pytest.raises(InputError, match="a log-probability is not a number"):
            decoder(np.full((5, 32), math.nan, np.float32))
        silence[:, BLANK + 1 :] = -math.inf
        assert decoder(silence) == DecodedText("", ())


def test_the_last_word_needs_no_end_and_half_a_word_is_none(arpa: Path) -> None:
    units = Units.letters()
    log_probs = spoken("A BAD", units)
    letters = log_probs.argmax(-1)
    end = np.flatnonzero(letters == units.encode("D")[0])[-1] + 1
    decoder = BeamSearchDecoder(units, HOP, lm=arpa)
    assert decoder(log_probs[:end]).words == decoder(log_probs).words
    assert decoder(log_probs).words[-1].end == pytest.approx(HOP * end)
    half = np.flatnonzero(letters == units.encode("B")[0])[-1] + 1
    assert decoder(log_probs[:half]).text in ("A", "A A")


def test_specials_are_never_written(arpa: Path) -> None:
    units = Units.letters()
    log_probs = spoken("A AB", units)
    noisy = log_probs.copy()
    noisy[::4, 1:4] = 5.0
    for decoder in (BeamSearchDecoder(units, HOP), BeamSearchDecoder(units, HOP, lm=arpa)):
        assert decoder(noisy).text == decoder(log_probs).text == "A AB"


@pytest.mark.parametrize("words", [True, False])
def test_long_audio_in_steps_equals_one_step(monkeypatch: pytest.MonkeyPatch, arpa: Path, words: bool) -> None:
    units = Units.letters()
    texts = " ".join(np.random.default_rng(0).choice(["A", "AB", "BA", "BAD"], size=60))
    log_probs = spoken(texts, units, noise=1.5)
    decoder = BeamSearchDecoder(units, HOP, lm=arpa if words else None, options=BeamOptions(beam=30))
    expected = decoder(log_probs)
    assert len(expected.words) == 60
    monkeypatch.setattr(module, "STEP_FRAMES", 97)
    monkeypatch.setattr(module, "SETTLED_FRAMES", 60)
    assert decoder(log_probs) == expected
    assert decoder(log_probs[:20]) == decoder(log_probs[:20])
    silence = np.broadcast_to(spoken("A", units)[0], (300, len(units.symbols)))
    assert decoder(silence) == DecodedText("", ())


def test_pruning_an_unsettled_history_loses_no_frame(monkeypatch: pytest.MonkeyPatch, arpa: Path) -> None:
    """A history that is too short may change words of noise, but times stay in order and within the audio."""
    monkeypatch.setattr(module, "STEP_FRAMES", 10)
    monkeypatch.setattr(module, "SETTLED_FRAMES", 2)
    decoder = BeamSearchDecoder(Units.letters(), HOP, lm=arpa, options=BeamOptions(word_score=3.0))
    for seed in range(10):
        log_probs = random_log_probs(100, seed, Units.letters(), sharpness=0.7)
        words = decoder(log_probs).words
        times = [time for word in words for time in (word.start, word.end)]
        assert times == sorted(times)
        assert not times or times[-1] <= HOP * 101


def test_a_lexicon_has_spellings_of_its_own(tmp_path: Path) -> None:
    units = Units.letters()
    lexicon = tmp_path / "lexicon"
    lexicon.write_text("dr\tD O C T O R\nDR D R |\nin I N\n")
    decoder = BeamSearchDecoder(units, HOP, lexicon=lexicon)
    assert decoder(spoken("DOCTOR IN DR", units)).text == "DR IN DR"


def test_only_the_most_probable_words_of_a_spelling_are_used(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = [f"W{number}" for number in range(9)]
    arpa, lexicon = tmp_path / "bigram.arpa", tmp_path / "lexicon"
    unigrams = "".join(f"-{2 - number / 10}\t{word}\n" for number, word in enumerate(words))
    arpa.write_text(
        f"\\data\\\nngram 1={len(words) + 3}\nngram 2=1\n\n\\1-grams:\n-9\t<unk>\n-99\t<s>\n-1\t</s>\n{unigrams}\n"
        "\\2-grams:\n-1\tW0 W0\n\n\\end\\\n"
    )
    lexicon.write_text("".join(f"{word} A\n" for word in words))
    decoder = BeamSearchDecoder(Units.letters(), HOP, lm=arpa, lexicon=lexicon)
    assert decoder(spoken("A A", Units.letters())).text == "W8 W8"
    assert capfd.readouterr() == ("", "")


def test_without_a_language_model_the_first_word_of_a_spelling_is_used(tmp_path: Path) -> None:
    lexicon = tmp_path / "lexicon"
    lexicon.write_text("THEIR T H E R E\nTHERE\n")
    assert BeamSearchDecoder(Units.letters(), HOP, lexicon=lexicon)(spoken("THERE", Units.letters())).text == "THEIR"


def test_log_probabilities_of_another_model_are_refused(arpa: Path) -> None:
    decoder = BeamSearchDecoder(Units.letters(), HOP, lm=arpa)
    for shape in ((5, 7), (5, 33), (32,)):
        with pytest.raises(InputError, match=r"have shape \(.*\); it must be \(frames, 32\)"):
            decoder(np.zeros(shape, np.float32))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"beam": 0}, "`beam` is 0; it must be a whole number of at least 1"),
        ({"beam": 1.5}, "`beam` is 1.5"),
        ({"beam_threshold": 0.0}, "`beam_threshold` is 0.0; it must be above 0"),
        ({"lm_weight": math.nan}, "`lm_weight` is nan; it must be a finite number"),
        ({"word_score": math.inf}, "`word_score` is inf; it must be a finite number"),
    ],
)
def test_refuses_options_that_cannot_be(option: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        BeamOptions(**option)


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flashlight.lib.text.decoder", None)
    with pytest.raises(InputError, match=r"beam search needs flashlight.* \(.*\): pip install 'flashlight-text>="):
        BeamSearchDecoder(UNITS, HOP)


def test_a_recognizer_takes_it(tiny_model: Callable[..., Any], wav: Callable[..., Path], arpa: Path) -> None:
    from w2v_compress.runtime.recognizer import Recognizer, Transcript

    model = tiny_model()
    recognizer = Recognizer(TorchEngine(model.build()), model.header)
    path = wav("a.wav", 2.0)
    header = recognizer.header
    recognizer.decoder = BeamSearchDecoder(header.units, header.seconds_per_frame, lm=arpa)
    (result,) = recognizer.recognize([path])
    assert isinstance(result, Transcript)
    assert result.text == " ".join(word.text for word in result.words) == recognizer.transcribe(path)
    assert result.words
    assert {word.text for word in result.words} <= {"A", "AB", "BA", "BAD"}
    assert result.words == recognizer.decoder(result.log_probs).words
    assert result.words[-1].end <= 2.0
