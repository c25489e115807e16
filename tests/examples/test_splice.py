"""Cutting prompts into words, and joining the words to new sentences."""

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest

import w2v_compress
from w2v_compress.data.audio import SAMPLE_RATE
from w2v_compress.errors import InputError
from w2v_compress.evaluation.wer import character_errors

QUICKSTART = Path(__file__).resolve().parents[2] / "examples" / "quickstart"


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(QUICKSTART), str(QUICKSTART / "train_teacher"), *sys.path])


def first_frames(path: tuple[int, ...], labels: list[int]) -> list[int] | None:
    """First frame of each label of a CTC path, or None if it is no path of `labels`."""
    starts = [frame for frame, unit in enumerate(path) if unit and (not frame or path[frame - 1] != unit)]
    return starts if [path[frame] for frame in starts] == labels else None


@pytest.mark.parametrize("labels", [[1, 2], [1, 1], [2, 1, 2], [1], [1, 1, 1]], ids=str)
def test_alignment_is_that_of_the_best_path(labels: list[int]) -> None:
    from splice import align

    for seed in range(5):
        log_probs = np.log(np.random.default_rng(seed).dirichlet(np.ones(3), size=6)).astype(np.float32)
        paths = [path for path in itertools.product(range(3), repeat=6) if first_frames(path, labels)]
        best = max(paths, key=lambda path: log_probs[range(6), path].sum())
        assert align(log_probs, labels) == first_frames(best, labels)


def test_audio_too_short_for_its_text_is_an_error() -> None:
    from splice import align

    with pytest.raises(InputError, match="2 frames are too few for 2 labels"):
        align(np.zeros((2, 3), np.float32), [1, 1])


def test_words_of_a_prompt_are_recognized_when_they_are_put_together_again() -> None:
    from make_mix import read_corpus, trim
    from splice import cut_words

    recognizer = w2v_compress.load("prompts-teacher")
    clips = [clip for clip in read_corpus(QUICKSTART / "corpus", "train") if len(clip.text.split()) > 3][:8]
    together = []
    for clip in clips:
        samples = trim(clip.samples)
        cut = cut_words(recognizer, samples, clip.text)
        assert cut.words == clip.text.split()
        assert cut.cuts == sorted(set(cut.cuts))
        assert (cut.cuts[0], cut.cuts[-1]) == (0, len(samples))
        pieces = [cut.part(index, index + 1) for index in range(len(cut.words))]
        assert sum(map(len, pieces)) == len(samples)
        together.append(recognizer.transcribe(np.concatenate(pieces), SAMPLE_RATE))
    assert character_errors([clip.text for clip in clips], together).rate < 0.2


def test_new_sentences_have_the_audio_of_their_words() -> None:
    from splice import Words, splice

    samples = np.concatenate([np.full(1600, level, np.float32) for level in (0.1, 0.2, 0.3, 0.4)])
    utterances = [Words(samples, ["A", "B", "C", "D"], [0, 1600, 3200, 4800, 6400])]
    level = {"A": 0.1, "B": 0.2, "C": 0.3, "D": 0.4}
    generator = np.random.default_rng(1)
    texts = set()
    for _ in range(50):
        audio, text = splice(utterances, generator)
        words = text.split()
        texts.add(text)
        assert len(audio) >= 1600 * len(words)
        heard = [value for value, _ in itertools.groupby(np.round(audio[np.isin(audio, samples)], 1))]
        expected = [value for value, _ in itertools.groupby(np.float32(level[word]) for word in words)]
        assert [float(value) for value in heard] == pytest.approx([float(value) for value in expected])
    assert len(texts) > 30


def test_held_out_texts_are_not_spliced() -> None:
    from make_mix import read_corpus, spliced

    recognizer = w2v_compress.load("prompts-teacher")
    clip = next(clip for clip in read_corpus(QUICKSTART / "corpus", "train") if len(clip.text.split()) == 2)
    first, second = clip.text.split()
    held_out = {f"{first} {second}", f"{first} {first}", f"{second} {second}"}
    made = spliced(recognizer, [clip], held_out, 0.005, np.random.default_rng(1))
    assert made
    assert not held_out & {sentence.text for sentence in made}
