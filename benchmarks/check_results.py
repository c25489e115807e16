"""Recompute a random part of the recorded error rates from the stored models, and compare.

    make results-check                                                         # from the repository's root; a minute
    python benchmarks/check_results.py --share 1 --speech FOLDER --fsdd FSDD   # all that the data allow

Stored are the quickstart's teacher, the models of examples/models, and some of examples/stochastic/digits.py. Their
rates on the prompts are recorded in examples/quickstart/results/results.json and examples/models/models.json; those on
other corpora, and those of the digits, can be checked where the corpora are given. Processors round differently, and
the models of the digits are stored with 16-bit weights, so a rate may differ by half a percentage point. Exits with
status 1 if one differs by more.
"""

import argparse
import json
import math
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from w2v_compress.cli.console import progress_bar
from w2v_compress.data.manifest import Utterance, read_manifest
from w2v_compress.data.prepare import prepare
from w2v_compress.errors import InputError
from w2v_compress.evaluation.evaluate import evaluate
from w2v_compress.evaluation.report import markdown_table
from w2v_compress.interop.fairseq_checkpoint import export_checkpoint
from w2v_compress.runtime.decoding.beam_search import BeamOptions, BeamSearchDecoder

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
QUICKSTART, STOCHASTIC, MODELS = EXAMPLES / "quickstart", EXAMPLES / "stochastic", EXAMPLES / "models"
sys.path += [str(EXAMPLES), str(QUICKSTART), str(STOCHASTIC)]

import digits  # noqa: E402
from bigram import write_bigram  # noqa: E402
from common import load_in_file_precision, one_line_errors  # noqa: E402
from experiment import Run  # noqa: E402
from ship_models import read_dev  # noqa: E402
from store_models import ARMS, STORED  # noqa: E402

TOLERANCE = 0.005
LEAST = 3
"""Number of checks, if the share has fewer."""


@dataclass(frozen=True)
class Check:
    """Recorded rates of one model at one point on one set of utterances."""

    model: Path
    point: str | None
    dataset: str
    utterances: Sequence[Utterance]
    recorded: dict[str, float]
    """WER and CER as fractions, by the names `wer` and `cer`."""
    bigram: Path | None = None
    options: BeamOptions | None = None
    """Options of the beam search with `bigram`."""

    @property
    def name(self) -> str:
        """Such as `prompts-elastic at 2,1,1, prompts, dev`."""
        point = f" at {self.point}" if self.point else ""
        return f"{self.model.stem}{point}{' with bigram' if self.bigram else ''}, {self.dataset}"

    def recompute(self) -> dict[str, float]:
        """Return the rates that the model has now."""
        recognizer = load_in_file_precision(self.model)
        if self.bigram is not None:
            header = recognizer.header
            recognizer.decoder = BeamSearchDecoder(
                header.units, header.seconds_per_frame, lm=self.bigram, options=self.options
            )
        report = evaluate(recognizer, self.utterances, point=self.point)
        return {"wer": report.wer.value, "cer": report.cer.value}


@dataclass(frozen=True)
class Corpora:
    """Where speech is that the repository does not contain."""

    speech: Sequence[Path] = ()
    """Corpora of models.json."""
    fsdd: Path | None = None
    """The Free Spoken Digit Dataset."""


def find_checks(corpora: Corpora, work: Path) -> list[Check]:
    """Return all checks that the data allow; prepares the data and the teacher in `work`."""
    found = prompt_checks(corpora.speech, work)
    return found if corpora.fsdd is None else found + digit_checks(corpora.fsdd, work / "digits")


def digit_checks(fsdd: Path, work: Path) -> list[Check]:
    """Return the checks of the models of digits.py that are stored, at all their points; prepares the digits."""
    results = json.loads((STORED / "results.json").read_text(encoding="utf-8"))
    run = Run(digits.EXPERIMENT, work, ())
    digits.prepare_data(fsdd, run)
    utterances = read_manifest(run.data, "dev")
    stored = Run(digits.EXPERIMENT, STORED, tuple(results["seeds"]))
    by_arm = {arm.name: stored.model(arm.name, stored.seeds[0]) for arm in ARMS}
    return [
        Check(by_arm[row["model"]], row["point"], "digits, dev", utterances, {"wer": row["rate"]["by_seed"][0]})
        for row in results["models"]
        if row["model"] in by_arm
    ]


def prompt_checks(speech: Sequence[Path], work: Path) -> list[Check]:
    """Return the checks of the shipped models on the prompts and on `speech`; prepares the prompts and the teacher."""
    data, teacher, bigram = work / "data", work / "teacher.safetensors", work / "bigram.arpa"
    prepare("csv", QUICKSTART / "corpus", data)
    export_checkpoint(QUICKSTART / "teacher" / "teacher.pt", teacher)
    write_bigram(data, bigram)
    results = json.loads((QUICKSTART / "results" / "results.json").read_text(encoding="utf-8"))
    row = next(each for each in results["models"] if each["model"] == "teacher")
    test = read_manifest(data, "test")
    options = BeamOptions(**results["language_model"])
    found = [
        Check(teacher, None, "prompts, test", test, values_of(row, "wer", "cer")),
        Check(teacher, None, "prompts, test", test, {"wer": row["wer_bigram"]["value"]}, bigram, options),
    ]
    sets: dict[str, Sequence[Utterance]] = {"prompts": read_manifest(data, "dev")}
    sets |= {folder.name: read_dev(folder).utterances for folder in speech}
    shipped = json.loads((MODELS / "models.json").read_text(encoding="utf-8"))["models"]
    for name, recorded in shipped.items():
        for point, groups in recorded["dev"].items():
            for dataset, utterances in sets.items():
                if dataset not in groups:
                    known = ", ".join(group for group in groups if "," not in group)
                    raise InputError(f"--speech {dataset}: nothing is recorded for it; recorded are {known}")
                rates = values_of(groups[dataset], "wer", "cer")
                model = MODELS / f"{name}.safetensors"
                found.append(Check(model, point, f"{dataset}, dev", utterances, rates))
    return found


def values_of(rates: dict[str, Any], *names: str) -> dict[str, float]:
    """Return the values of recorded intervals."""
    return {name: rates[name]["value"] for name in names}


def choose(checks: Sequence[Check], share: float, seed: int) -> list[Check]:
    """Draw a share of the checks at random, at least `LEAST`, in their order."""
    count = min(len(checks), max(LEAST, math.ceil(share * len(checks))))
    return [checks[index] for index in sorted(random.Random(seed).sample(range(len(checks)), count))]


def run(share: float, seed: int, corpora: Corpora) -> bool:
    """Recompute a share of the rates, print them, and return whether all agree."""
    lines, agree = [], True
    with tempfile.TemporaryDirectory() as work:
        chosen = choose(find_checks(corpora, Path(work)), share, seed)
        with progress_bar("Recomputing") as progress:
            for done, check in enumerate(chosen, start=1):
                rates = check.recompute()
                for rate, recorded in check.recorded.items():
                    same = abs(rates[rate] - recorded) <= TOLERANCE
                    agree = agree and same
                    values = (f"{100 * value:.2f}%" for value in (recorded, rates[rate]))
                    lines.append([check.name, rate.upper(), *values, "yes" if same else "NO"])
                progress(done, len(chosen))
    print(markdown_table(["model", "rate", "recorded", "now", "agree"], lines))
    print(f"{len(chosen)} checks, drawn with seed {seed}")
    return agree


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=0.1, help="share of the checks, above 0 up to 1 (default: 0.1)")
    parser.add_argument("--seed", type=int, help="seed of the draw (default: another one each time)")
    parser.add_argument("--speech", type=Path, action="append", default=[], help="a corpus of models.json; repeatable")
    parser.add_argument("--fsdd", type=Path, help="folder of the Free Spoken Digit Dataset")
    args = parser.parse_args()
    if not 0 < args.share <= 1:
        parser.error(f"--share is {args.share}; it must be above 0 and at most 1")
    seed = random.SystemRandom().randrange(10**6) if args.seed is None else args.seed
    with one_line_errors():
        agree = run(args.share, seed, Corpora(args.speech, args.fsdd))
    sys.exit(0 if agree else 1)


if __name__ == "__main__":
    main()
