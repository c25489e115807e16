"""Sweeps: the report of each point, and the Pareto front."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from w2v_compress.data.manifest import Utterance
from w2v_compress.errors import InputError
from w2v_compress.evaluation import sweep as module
from w2v_compress.evaluation.compute import count_compute
from w2v_compress.evaluation.evaluate import evaluate
from w2v_compress.evaluation.sweep import cost_table, notes, pareto_front, plot, rate_table, sweep
from w2v_compress.evaluation.wer import compare
from w2v_compress.model_file.storage import ModelFile, write_model
from w2v_compress.nn.compression import CompressionPoint, CompressionSpace
from w2v_compress.runtime.engines.openvino.graph import GraphBuilder
from w2v_compress.runtime.engines.torch_engine import TorchEngine
from w2v_compress.runtime.recognizer import Recognizer

POINTS = (CompressionPoint(2), CompressionPoint(1), CompressionPoint(2, (1, 2), 2))


@pytest.fixture
def recognizer(tiny_model: Callable[..., ModelFile]) -> Recognizer:
    model = tiny_model()
    header = dataclasses.replace(model.header, space=CompressionSpace(points=POINTS))
    return Recognizer(TorchEngine(model.build()), header, chunk_seconds=6.0)


@pytest.fixture
def utterances(wav: Callable[..., Path], recognizer: Recognizer) -> list[Utterance]:
    """Utterances with the transcripts of the tiny model at (1, 1, 1); the last one is longer than a window."""
    lengths = (0.5, 1.0, 0.7, 9.0)
    paths = [wav(f"{number}.wav", seconds, seed=number) for number, seconds in enumerate(lengths)]
    texts = recognizer.transcribe(paths, point="1,1,1")
    return [
        Utterance(path, round(16_000 * seconds), text)
        for path, seconds, text in zip(paths, lengths, texts, strict=True)
    ]


def test_reports_every_point_of_the_space(
    recognizer: Recognizer, utterances: list[Utterance], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    timed = []

    def fake(runs: dict[CompressionPoint, Callable[[], object]], repeats: int) -> dict[CompressionPoint, float]:
        timed.append((list(map(str, runs)), repeats))
        for run in runs.values():
            run()
        milliseconds = {"2,1,1": 100.0, "1,1,1": 300.0, "2,1:2,2": 150.0}
        return {point: milliseconds[str(point)] for point in runs}

    monkeypatch.setattr(module, "interleaved_latency", fake)
    report = sweep(recognizer, utterances, repeats=11, timed_seconds=0.8, seed=2)
    assert timed == [(["2,1,1", "1,1,1", "2,1:2,2"], 11)]
    assert report.reference == CompressionPoint(1)
    assert 0.8 <= report.timed_seconds < 0.8 + 9
    assert report.audio_seconds == pytest.approx(11.2)
    alone = {point: evaluate(recognizer, utterances, point=point, seed=2) for point in POINTS}
    largest = alone[CompressionPoint(1)]
    for row, point, speed_up in zip(report.points, POINTS, (3, 1, 2), strict=True):
        assert (row.point, row.wer, row.cer) == (point, alone[point].wer, alone[point].cer)
        assert row.wer_difference == compare(largest.word_counts, alone[point].word_counts, seed=2)
        assert row.speed_up == pytest.approx(speed_up)
        assert row.real_time_factor == pytest.approx(row.milliseconds / 1000 / report.timed_seconds)
    assert report.points[1].wer.value == 0
    costs = [(row.milliseconds, row.wer.value) for row in report.points]
    assert [row.pareto for row in report.points] == pareto_front(costs)
    architecture = recognizer.header.architecture
    windows = recognizer.windows(utterances[-1].samples, POINTS[0])
    assert len(windows) > 1
    lengths = [item.samples for item in utterances[:-1]]
    lengths += [window.samples.stop - window.samples.start for window in windows]
    macs = sum(count_compute(architecture, length, POINTS[0]).total for length in lengths)
    assert report.points[0].macs_per_second == pytest.approx(macs / 11.2)
    json.dumps(report.to_dict(), allow_nan=False)
    columns, lines = rate_table(report)
    assert "WER minus 1,1,1" in columns
    assert [line[0] for line in lines] == ["2,1,1", "1,1,1", "2,1:2,2"]
    assert lines[1][2] == "-"
    assert [line[2] for line in cost_table(report)[1]] == ["3.00x", "1.00x", "2.00x"]
    assert "median of 11 interleaved runs" in notes(report)[1]
    plot(report, tmp_path / "plot.png", "tiny")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_no_point_is_compiled_between_the_timed_runs(
    tiny_model: Callable[..., ModelFile], utterances: list[Utterance], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    write_model(path, tiny_model())
    compiled = []
    build = GraphBuilder.encoder

    def count(self: GraphBuilder, point: CompressionPoint) -> object:
        compiled.append(point)
        return build(self, point)

    monkeypatch.setattr(GraphBuilder, "encoder", count)
    recognizer = Recognizer.load(path, engine="openvino", precision="fp32", cache=False)
    points = [CompressionPoint(squeeze, pool) for squeeze in (1, 2, 3) for pool in (1, 2)]
    sweep(recognizer, utterances[:2], points, timed_seconds=0.5)
    assert compiled == points


def test_timed_audio_depends_on_the_seed(recognizer: Recognizer, utterances: list[Utterance]) -> None:
    reports = [
        sweep(recognizer, utterances[:3], [CompressionPoint(1)], timed_seconds=seconds, seed=seed)
        for seconds, seed in ((0.1, 0), (0.1, 0), (60.0, 1))
    ]
    assert reports[0].timed_seconds == reports[1].timed_seconds in (0.5, 0.7, 1.0)
    assert (reports[0].timed_utterances, reports[2].timed_utterances) == (1, 3)
    assert all(row.real_time_factor > 0 for report in reports for row in report.points)


def test_invalid_arguments(recognizer: Recognizer, utterances: list[Utterance], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="`repeats` is 8; it must be at least 9"):
        sweep(recognizer, utterances, repeats=8)
    with pytest.raises(InputError, match="each point once"):
        sweep(recognizer, utterances, [CompressionPoint(1), CompressionPoint(1)])
    with pytest.raises(InputError, match="but the network has 2 layers"):
        sweep(recognizer, utterances, [CompressionPoint(1, (1, 2, 1))])
    with pytest.raises(InputError, match="no utterances"):
        sweep(recognizer, [])
    with pytest.raises(InputError, match=r"absent\.wav"):
        sweep(recognizer, [dataclasses.replace(utterances[0], path=tmp_path / "absent.wav")])


def test_pareto_front() -> None:
    costs = [(1.0, 5.0), (2.0, 4.0), (2.0, 5.0), (3.0, 4.0), (4.0, 1.0), (4.0, 1.0), (0.5, 9.0)]
    assert pareto_front(costs) == [True, True, False, False, True, True, True]
