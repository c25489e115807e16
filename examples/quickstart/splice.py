"""Cut utterances into words with a CTC model, and join words of several utterances to new sentences.

A network that sees few texts learns them by heart, and makes far more errors in other texts of the same words. New
sequences of words keep it from that.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from w2v_compress.data.audio import SAMPLE_RATE
from w2v_compress.errors import InputError
from w2v_compress.runtime.decoding.beam_search import BLANK
from w2v_compress.runtime.recognizer import Recognizer

HOP = SAMPLE_RATE // 100
"""Samples between candidate cuts."""


@dataclass(frozen=True)
class Words:
    """The words of an utterance and their audio: word i is `samples[cuts[i]:cuts[i + 1]]`."""

    samples: NDArray[np.float32]
    words: list[str]
    cuts: list[int]

    def part(self, start: int, end: int) -> NDArray[np.float32]:
        """Return the audio of words `start` to `end`, faded in and out over 5 ms."""
        piece = self.samples[self.cuts[start] : self.cuts[end]].copy()
        fade = np.linspace(0, 1, min(HOP // 2, len(piece)), dtype=np.float32)
        piece[: len(fade)] *= fade
        piece[len(piece) - len(fade) :] *= fade[::-1]
        return piece


def align(log_probs: NDArray[np.float32], labels: list[int]) -> list[int]:
    """Return the first frame of each label on the most probable CTC path of `labels` through `log_probs`.

    log_probs: `(frames, units)`. Raises `InputError` if the audio is too short for the labels.
    """
    states = np.full(2 * len(labels) + 1, BLANK)
    states[1::2] = labels
    # A label follows another without a blank between them, unless they are the same.
    skips = np.zeros(len(states), bool)
    skips[3::2] = states[3::2] != states[1:-2:2]
    score = np.full(len(states), -np.inf)
    score[:2] = log_probs[0, states[:2]]
    steps = np.zeros((len(log_probs), len(states)), int)
    for frame in range(1, len(log_probs)):
        before = np.full((3, len(states)), -np.inf)
        before[0], before[1, 1:], before[2, 2:] = score, score[:-1], score[:-2]
        before[2, ~skips] = -np.inf
        steps[frame] = before.argmax(0)
        score = before.max(0) + log_probs[frame, states]
    state = len(states) - 1 if len(states) < 2 or score[-1] >= score[-2] else len(states) - 2
    if not np.isfinite(score[state]):
        raise InputError(f"{len(log_probs)} frames are too few for {len(labels)} labels")
    firsts = [0] * len(labels)
    for frame in range(len(log_probs) - 1, -1, -1):
        if state % 2:
            firsts[state // 2] = frame
        state -= steps[frame, state]
    return firsts


def cut_words(recognizer: Recognizer, samples: NDArray[np.float32], text: str) -> Words:
    """Cut an utterance at the quietest 10 ms between the last letter of each word and the first one of the next."""
    units = recognizer.header.units
    labels = units.encode(text)
    firsts = align(np.asarray(recognizer.emissions(samples, SAMPLE_RATE)), labels)
    frame = round(recognizer.header.seconds_per_frame * SAMPLE_RATE)
    separator = units.symbols.index(units.word_separator)
    energy = np.square(samples[: len(samples) // HOP * HOP].reshape(-1, HOP)).mean(1)
    cuts = [0]
    for index in range(1, len(labels) - 1):
        if labels[index] == separator:
            start, end = firsts[index - 1] * frame // HOP, (firsts[index + 1] + 1) * frame // HOP
            cuts.append((start + int(energy[start:end].argmin())) * HOP + HOP // 2)
    return Words(samples, text.split(), [*cuts, len(samples)])


def splice(
    utterances: list[Words], generator: np.random.Generator, most: int = 5, longest: int = 3
) -> tuple[NDArray[np.float32], str]:
    """Join 2 to `most` sequences of up to `longest` words, from random places; return the audio and the text."""
    pieces: list[NDArray[np.float32]] = []
    words: list[str] = []
    for index in generator.integers(len(utterances), size=generator.integers(2, most + 1)):
        utterance = utterances[index]
        start = int(generator.integers(len(utterance.words)))
        end = min(start + int(generator.integers(1, longest + 1)), len(utterance.words))
        gap = int(max(0.0, generator.uniform(-0.15, 0.15)) * SAMPLE_RATE)  # none in half of the cases
        pieces += [utterance.part(start, end), 1e-4 * generator.standard_normal(gap).astype(np.float32)]
        words += utterance.words[start:end]
    return np.concatenate(pieces[:-1]), " ".join(words)
