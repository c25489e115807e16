import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from w2v_compress.data.manifest import Utterance
from w2v_compress.errors import InputError
from w2v_compress.evaluation.evaluate import alignment_text, evaluate
from w2v_compress.evaluation.machine import interleaved_latency
from w2v_compress.evaluation.wer import compare
from w2v_compress.runtime.recognizer import Recognizer


@pytest.fixture
def utterances(wav: Callable[..., Path], tiny_path: Path) -> list[Utterance]:
    """Utterances with the tiny model's own transcripts, and one extra word in the last."""
    paths = [wav(f"{number}.wav", 1.0 + number / 4, seed=number) for number in range(4)]
    texts = Recognizer.load(tiny_path).transcribe(paths)
    assert all(texts)
    texts[-1] += " ENDING"
    return [Utterance(path, 16_000 + 4_000 * i, text) for i, (path, text) in enumerate(zip(paths, texts, strict=True))]


def test_report(tiny_path: Path, utterances: list[Utterance]) -> None:
    steps: list[int] = []
    recognizer = Recognizer.load(tiny_path)
    report = evaluate(recognizer, utterances, 2, seed=5, progress=lambda done, total: steps.append(done))
    words = sum(len(utterance.text.split()) for utterance in utterances)
    assert report.wer.value == 1 / words
    assert 0 == report.wer.low <= report.wer.value <= report.wer.high
    assert report.cer.value == pytest.approx(7 / sum(len(utterance.text) for utterance in utterances))
    assert (report.utterances, report.words, report.seed, report.batch_size) == (4, words, 5, 2)
    assert (report.substitutions, report.deletions, report.insertions) == (0, 1, 0)
    aligned = alignment_text(report, utterances).rstrip().splitlines()
    assert [line for line in aligned if line.endswith(".wav")] == [str(utterance.path) for utterance in utterances]
    reference, hypothesis, kinds = (line.split() for line in aligned[-3:])
    assert reference == ["REF:", *utterances[-1].text.split()]
    assert hypothesis == ["HYP:", *utterances[-1].text.split()[:-1], "******"]
    assert kinds == ["D"]
    assert report.audio_seconds == 5.5
    assert report.real_time_factor == report.compute_seconds / 5.5 > 0
    assert report.milliseconds_per_second == 1000 * report.real_time_factor
    assert report.peak_memory_bytes > 50e6
    assert steps == [1, 2, 3, 4]
    values = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert values["wer"] == dataclasses.asdict(report.wer)
    assert values["machine"]["threads"] >= 1
    assert values["machine"]["processor"]
    assert compare(report.word_counts, report.word_counts).value == 0


def test_an_unreadable_utterance_is_an_error(tiny_path: Path, utterances: list[Utterance], tmp_path: Path) -> None:
    utterances[2] = dataclasses.replace(utterances[2], path=tmp_path / "absent.wav")
    with pytest.raises(InputError, match=r"absent\.wav"):
        evaluate(Recognizer.load(tiny_path), utterances)
    with pytest.raises(InputError, match="no utterances"):
        evaluate(Recognizer.load(tiny_path), [])


def test_latencies_are_medians_taken_in_turns() -> None:
    calls = []

    def run(name: str, seconds: float) -> Callable[[], None]:
        def call() -> None:
            calls.append(name)
            time.sleep(0.1 if len(calls) in (3, 4) else seconds)  # one slow round, which does not change the median

        return call

    times = interleaved_latency({"quick": run("quick", 0.0), "slow": run("slow", 0.02)}, repeats=5)
    assert calls == ["quick", "slow"] * 6
    assert times["quick"] < 15 < times["slow"] < 90
