"""Evaluation of one recognizer on one test set: error rates, speed and memory."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jiwer

from ..data.manifest import Utterance
from ..errors import InputError
from ..model_file.points import Point
from ..nn.compression import CompressionPoint
from ..progress import Progress, no_progress
from ..runtime.recognizer import Recognizer
from .machine import describe_engine, peak_memory
from .wer import ErrorCounts, Interval, align_words, character_errors, counts_of, error_rate


@dataclass(frozen=True)
class EvaluationReport:
    """Error rates, speed and memory of one recognizer on one test set."""

    point: CompressionPoint
    wer: Interval
    cer: Interval
    utterances: int
    words: int
    substitutions: int
    deletions: int
    insertions: int
    audio_seconds: float
    compute_seconds: float
    peak_memory_bytes: int
    """Peak memory of the process since its start, or on a GPU the peak of torch's allocations."""
    batch_size: int
    seed: int
    machine: dict[str, Any]
    word_counts: ErrorCounts
    """Word errors of each utterance, the input of `wer.compare`."""
    character_counts: ErrorCounts
    """Character errors of each utterance."""
    hypotheses: list[str]
    alignment: jiwer.WordOutput
    """Word alignment of every reference with its hypothesis."""

    @property
    def real_time_factor(self) -> float:
        """Seconds of computation per second of audio."""
        return self.compute_seconds / self.audio_seconds

    @property
    def milliseconds_per_second(self) -> float:
        """Milliseconds of computation per second of audio."""
        return 1000 * self.real_time_factor

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON, without those that hold a value per utterance; rates are fractions."""
        values = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("word_counts", "character_counts", "hypotheses", "alignment")
        }
        values["point"] = str(self.point)
        values["wer"], values["cer"] = dataclasses.asdict(self.wer), dataclasses.asdict(self.cer)
        return values | {
            "real_time_factor": self.real_time_factor,
            "milliseconds_per_second": self.milliseconds_per_second,
        }


def evaluate(
    recognizer: Recognizer,
    utterances: Sequence[Utterance],
    batch_size: int = 8,
    *,
    point: Point | None = None,
    seed: int = 0,
    progress: Progress = no_progress,
) -> EvaluationReport:
    """Transcribe a test set and return its WER and CER with 95% intervals, computation time and peak memory.

    Intervals are bootstrapped over utterances with `seed`. `point` is passed to `Recognizer.checked_point`. The
    first utterance is transcribed once more beforehand as a warm-up, which is not timed. `progress` counts utterances.
    Raises `InputError` when any utterance cannot be read, because the error rate of the others is not comparable.
    """
    if not utterances:
        raise InputError("there are no utterances to evaluate on")
    point = recognizer.checked_point(point)
    recognizer.transcribe(utterances[0].path, point=point)
    transcripts = []
    paths = (utterance.path for utterance in utterances)
    for result in recognizer.recognize(paths, batch_size=batch_size, point=point):
        if isinstance(result, InputError):
            raise result
        transcripts.append((result.text, result.audio_seconds, result.compute_seconds))
        progress(len(transcripts), len(utterances))
    hypotheses, audio_seconds, compute_seconds = map(list, zip(*transcripts, strict=True))
    references = [utterance.text for utterance in utterances]
    alignment = align_words(references, hypotheses)
    words, characters = counts_of(alignment), character_errors(references, hypotheses)
    return EvaluationReport(
        point=point,
        wer=error_rate(words, seed=seed),
        cer=error_rate(characters, seed=seed),
        utterances=len(utterances),
        words=int(words.lengths.sum()),
        substitutions=alignment.substitutions,
        deletions=alignment.deletions,
        insertions=alignment.insertions,
        audio_seconds=sum(audio_seconds),
        compute_seconds=sum(compute_seconds),
        peak_memory_bytes=peak_memory(recognizer.engine.device),
        batch_size=batch_size,
        seed=seed,
        machine=describe_engine(recognizer.engine),
        word_counts=words,
        character_counts=characters,
        hypotheses=hypotheses,
        alignment=alignment,
    )


def alignment_text(report: EvaluationReport, utterances: Sequence[Utterance]) -> str:
    """Format reference and hypothesis of each utterance on aligned lines, with S, D or I below each error."""
    parts = []
    for index, utterance in enumerate(utterances):
        one = dataclasses.replace(
            report.alignment,
            references=[report.alignment.references[index]],
            hypotheses=[report.alignment.hypotheses[index]],
            alignments=[report.alignment.alignments[index]],
        )
        _, _, lines = jiwer.visualize_alignment(one, show_measures=False, skip_correct=False).partition("\n\n")
        parts.append(f"{utterance.path}\n{lines.rstrip()}\n")
    return "\n".join(parts)
