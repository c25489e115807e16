"""How well and how fast a recognizer does on a test set."""

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
from .machine import describe_machine, peak_memory
from .wer import ErrorCounts, Interval, align_words, character_errors, counts_of, error_rate


@dataclass(frozen=True)
class EvaluationReport:
    """Quality and cost of one recognizer on one test set."""

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
    """Of the whole process so far, or on a GPU of torch's tensors."""
    batch_size: int
    seed: int
    machine: dict[str, Any]
    word_counts: ErrorCounts
    """By utterance, to compare two systems with `wer.compare`."""
    character_counts: ErrorCounts
    hypotheses: list[str]
    alignment: jiwer.WordOutput
    """Which words of each utterance were taken for which."""

    @property
    def real_time_factor(self) -> float:
        """Seconds of computing for each second of audio."""
        return self.compute_seconds / self.audio_seconds

    @property
    def milliseconds_per_second(self) -> float:
        """Milliseconds of computing for each second of audio."""
        return 1000 * self.real_time_factor

    def to_dict(self) -> dict[str, Any]:
        """For JSON: everything but the counts and texts by utterance; rates as fractions."""
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
    """WER, by kind of error, and CER with 95% intervals (bootstrap over utterances, by `seed`), time and memory.

    `point` is as in `Recognizer.checked_point`. The first utterance is transcribed once before, uncounted. Raises
    `InputError` when an utterance cannot be used: a rate over what is left of a test set would be another test set's.
    `progress` counts utterances.
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
    device = str(recognizer.device)
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
        peak_memory_bytes=peak_memory(device),
        batch_size=batch_size,
        seed=seed,
        machine=describe_machine(device),
        word_counts=words,
        character_counts=characters,
        hypotheses=hypotheses,
        alignment=alignment,
    )


def alignment_text(report: EvaluationReport, utterances: Sequence[Utterance]) -> str:
    """Reference and hypothesis of each utterance one under the other, with S, D or I under each error."""
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
