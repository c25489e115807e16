"""Write what `prepare` has converted: manifests, the dictionary, the list of rejected utterances, and the report."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError, shown
from ..files import replacing
from .conversion import Rejection
from .manifest import Utterance, write_manifest
from .units import Units


@dataclass(frozen=True)
class SplitReport:
    """Size of a written split."""

    utterances: int
    """Number of utterances."""
    hours: float
    """Duration of the audio in hours."""


@dataclass(frozen=True)
class PrepareReport:
    """Result of `prepare`."""

    out: str
    """Manifest folder."""
    splits: dict[str, SplitReport]
    """Size of each split, by name."""
    rejected: dict[str, int]
    """Number of rejected utterances, by reason."""

    def summary(self) -> str:
        """Return one line: utterances and hours of each split, and the number of rejected utterances by reason."""
        accepted = ", ".join(f"{name} {split.utterances} ({split.hours:.2f} h)" for name, split in self.splits.items())
        return f"{self.out}: {accepted}; {_rejection_counts(self.rejected)}"


def write_outputs(
    out: Path, accepted: Mapping[str, list[Utterance]], rejections: Sequence[Rejection], units: Units, *, strict: bool
) -> PrepareReport:
    """Write all files but the audio; result and errors are those of `prepare`."""
    rejected = _reasons(rejections)
    rows = sorted((rejection.path, rejection.reason, rejection.detail) for rejection in rejections)
    with replacing(out / "rejected.tsv") as temporary:
        lines = [
            "\t".join(shown(" ".join(cell.split())) for cell in row) for row in [("path", "reason", "detail"), *rows]
        ]
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    if strict and rejections:
        raise InputError(
            f"{out / 'rejected.tsv'}: {_rejection_counts(rejected)}; --strict allows none, so no manifest is written"
        )
    empty = [split for split, utterances in accepted.items() if not utterances]
    if empty or not accepted:
        problem = f"the split {empty[0]!r} has no valid utterance" if empty else "no utterance is valid"
        raise InputError(f"{out / 'rejected.tsv'}: {problem}; {_rejection_counts(rejected)}; no manifest is written")
    units.write_dictionary(out / units.dictionary_name)
    for split, utterances in accepted.items():
        write_manifest(out, split, utterances, units)
    return report(str(out), accepted, rejections)


def report(out: str, accepted: Mapping[str, Sequence[Utterance]], rejections: Sequence[Rejection]) -> PrepareReport:
    """Return the report on the utterances of each split and the rejections."""
    rejected = _reasons(rejections)
    hours = {split: sum(utterance.seconds for utterance in utterances) / 3600 for split, utterances in accepted.items()}
    reports = {split: SplitReport(len(utterances), hours[split]) for split, utterances in accepted.items()}
    return PrepareReport(out, reports, rejected)


def _reasons(rejections: Sequence[Rejection]) -> dict[str, int]:
    """Count the rejections by reason, the most common first."""
    return dict(Counter(rejection.reason for rejection in rejections).most_common())


def _rejection_counts(rejected: Mapping[str, int]) -> str:
    if not rejected:
        return "none rejected"
    return f"{sum(rejected.values())} rejected ({', '.join(f'{count} {reason}' for reason, count in rejected.items())})"
