"""Create the models of examples/models: the teacher in int8, and the elastic student in int8 with a stored sweep.

    python examples/quickstart/ship_models.py ELASTIC.pt OUT [--separate SEPARATE.pt] [--speech FOLDER]...

ELASTIC.pt is a checkpoint of the elastic student, of `make demo` or train_elastic.sh. Both models are calibrated on the
training prompts, and evaluated on the dev split of the prompts and of each FOLDER, a corpus with `utterances.csv`
(path, text, split, optional gender and age). The sweep is measured on the dev prompts. The full point of the elastic
student is compared with SEPARATE.pt, a student of the same depth that train_elastic.sh trained without compression, on
the same utterances and the test prompts. Writes the models, a model card for each, and models.json with the figures of
the cards.
"""

import argparse
import csv
import dataclasses
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from w2v_compress.cli.console import progress_bar
from w2v_compress.data.audio import read_audio
from w2v_compress.data.manifest import Utterance, read_manifest
from w2v_compress.data.prepare import prepare
from w2v_compress.evaluation.evaluate import evaluate
from w2v_compress.evaluation.machine import describe_machine
from w2v_compress.evaluation.report import compute_device, markdown_table
from w2v_compress.evaluation.sweep import sweep
from w2v_compress.evaluation.wer import ErrorCounts, compare, error_rate
from w2v_compress.files import write_json, write_text
from w2v_compress.interop.fairseq_checkpoint import export_checkpoint
from w2v_compress.model_file.storage import store_sweep
from w2v_compress.model_file.tensor_file import describe_model
from w2v_compress.papers.seeds import mean_and_interval
from w2v_compress.runtime.recognizer import Recognizer

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE.parent), str(HERE)]

from common import load_in_file_precision, one_line_errors, percent  # noqa: E402
from run import SEED, TEACHER, quantize  # noqa: E402

MODELS = HERE.parent / "models"
CARDS = HERE / "model_cards"
ADULT = 18


@dataclass
class DevSet:
    """The dev utterances of a corpus, and the indices of each group of speakers; the first group is all of them."""

    utterances: list[Utterance]
    groups: dict[str, list[int]]


def read_dev(folder: Path) -> DevSet:
    """Read the dev split of a corpus, and group it by gender and age where they are known."""
    utterances: list[Utterance] = []
    groups: dict[str, list[int]] = defaultdict(list)
    with open(folder / "utterances.csv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["split"] != "dev":
                continue
            path = (folder / row["path"]).resolve()
            names = [folder.name]
            if gender := row.get("gender"):
                names.append(f"{folder.name}, {'female' if gender.startswith('f') else 'male'}")
            if age := row.get("age"):
                names.append(f"{folder.name}, {'adults' if int(age) >= ADULT else 'children'}")
            for name in names:
                groups[name].append(len(utterances))
            utterances.append(Utterance(path, len(read_audio(path)), row["text"].upper()))
    return DevSet(utterances, groups)


Counts = dict[str, dict[str, ErrorCounts]]
"""Counts of word and character errors ("wer", "cer") of each group of utterances."""


def count_errors(recognizer: Recognizer, sets: Sequence[DevSet], point: str) -> Counts:
    """Return the errors at `point` in each group."""
    counts: Counts = {}
    for dev in sets:
        with progress_bar(f"Evaluating at {point}: {next(iter(dev.groups))}") as progress:
            report = evaluate(recognizer, dev.utterances, point=point, seed=SEED, progress=progress)
        both = {"wer": report.word_counts, "cer": report.character_counts}
        for name, chosen in dev.groups.items():
            counts[name] = {
                unit: ErrorCounts(every.errors[chosen], every.lengths[chosen]) for unit, every in both.items()
            }
    return counts


def rates(counts: Counts, sets: Sequence[DevSet]) -> dict[str, Any]:
    """Return WER and CER of each group, with its size."""
    rows = {}
    for dev in sets:
        for name, chosen in dev.groups.items():
            hours = sum(dev.utterances[index].seconds for index in chosen) / 3600
            each = {unit: dataclasses.asdict(error_rate(every, seed=SEED)) for unit, every in counts[name].items()}
            rows[name] = {"utterances": len(chosen), "hours": hours, **each}
    return rows


def compare_depth(separate: Path, of_elastic: Counts, data: Path, out: Path, sets: Sequence[DevSet]) -> dict[str, Any]:
    """Return the WER of the elastic student at its full point and of a separate one, both int8, and the differences."""
    exported, model = out / "separate.safetensors", out / "separate-int8.safetensors"
    export_checkpoint(separate, exported)
    quantize(exported, model, data, "separate student")
    recognizer = load_in_file_precision(model)
    of_separate = count_errors(recognizer, sets, str(recognizer.header.point))
    return {
        name: {
            "separate": dataclasses.asdict(error_rate(of_separate[name]["wer"], seed=SEED)),
            "elastic": dataclasses.asdict(error_rate(of_elastic[name]["wer"], seed=SEED)),
            "difference": dataclasses.asdict(compare(of_separate[name]["wer"], of_elastic[name]["wer"], seed=SEED)),
        }
        for name in of_separate
    }


def card(name: str, model: Path, figures: dict[str, Any], machine: dict[str, Any]) -> str:
    """Return the model card: the text in model_cards/NAME.txt, then the figures."""
    description = describe_model(model)
    text = (CARDS / f"{name}.txt").read_text(encoding="utf-8").rstrip()
    size = f"{description['parameters'] / 1e6:.2f}M parameters, {description['bytes'] / 1e6:.2f} MB"
    parts = [f"# Model card: {name}\n\n{size}, {description['precision']}.\n\n{text}\n"]
    parts += [f"## Error rates on dev at {point}\n\n{rates_table(groups)}" for point, groups in figures["dev"].items()]
    if stored := figures.get("sweep"):
        parts.append(
            f"## Stored sweep\n\nGreedy decoding of the dev prompts; batch 1, {compute_device(machine)}.\n\n"
            f"{sweep_table(stored)}"
        )
    if compared := figures.get("separate"):
        parts.append(
            "## Against a separate student\n\nWER of a student of the same depth, trained in the same way but without "
            "compression, and of the elastic one at its full\npoint; both in int8, one seed. The difference is in "
            f"percentage points.\n\n{separate_table(compared)}"
        )
    return "\n".join(parts)


def rates_table(groups: dict[str, Any]) -> str:
    """Format the error rates of each group at one point."""
    lines = [
        [group, str(each["utterances"]), f"{each['hours']:.2f}", percent(each["wer"]), percent(each["cer"])]
        for group, each in groups.items()
    ]
    return markdown_table(["dev set", "utterances", "hours", "WER", "CER"], lines)


def sweep_table(stored: list[dict[str, Any]]) -> str:
    """Format the stored sweep."""
    lines = [
        [
            row["point"],
            f"{100 * row['wer']:.1f}%",
            f"{1000 * row['real_time_factor']:.1f}",
            f"{1e-9 * row['macs_per_second']:.2f}",
        ]
        for row in stored
    ]
    return markdown_table(["point", "WER, dev prompts", "ms per s of audio", "GMAC per s"], lines)


def separate_table(compared: dict[str, Any]) -> str:
    """Format the comparison with a separate student."""
    lines = [
        [group, percent(each["separate"]), percent(each["elastic"]), " ".join(mean_and_interval(each["difference"]))]
        for group, each in compared.items()
    ]
    return markdown_table(["speech", "separate", "elastic", "difference"], lines)


def run(elastic: Path, separate: Path | None, out: Path, folders: list[Path]) -> None:
    """Create and measure the models, and write them with their cards."""
    data = out / "data"
    if not (data / "dev.tsv").exists():
        print(prepare("csv", HERE / "corpus", data).summary())
    prompts = list(read_manifest(data, "dev"))
    sets = [DevSet(prompts, {"prompts": list(range(len(prompts)))}), *map(read_dev, folders)]
    MODELS.mkdir(exist_ok=True)
    machine = describe_machine()
    results: dict[str, Any] = {}
    for name, checkpoint in {"prompts-teacher": TEACHER, "prompts-elastic": elastic}.items():
        exported, model = out / f"{name}.safetensors", MODELS / f"{name}.safetensors"
        export_checkpoint(checkpoint, exported)
        quantize(exported, model, data, name)
        recognizer = load_in_file_precision(model)
        points = recognizer.header.space.all_points()
        recognizer.engine.keep_points(len(points))
        figures: dict[str, Any] = {}
        if len(points) > 1:
            with progress_bar(f"Sweeping: {name}") as progress:
                report = sweep(recognizer, prompts, seed=SEED, progress=progress)
            stored = report.to_store("dev prompts")
            store_sweep(model, stored)
            figures["sweep"] = stored.to_dict()["points"]
        counts = {str(point): count_errors(recognizer, sets, str(point)) for point in points}
        figures["dev"] = {point: rates(each, sets) for point, each in counts.items()}
        if separate and len(points) > 1:
            test = list(read_manifest(data, "test"))
            prompts_test = DevSet(test, {"prompts, test": list(range(len(test)))})
            full = str(recognizer.header.space.largest)
            of_elastic = count_errors(recognizer, [prompts_test], full) | counts[full]
            figures["separate"] = compare_depth(separate, of_elastic, data, out, [prompts_test, *sets])
        results[name] = {**describe_model(model), **figures}
        write_text(MODELS / f"{name}.md", card(name, model, figures, machine))
    write_json(MODELS / "models.json", {"seed": SEED, "machine": machine, "models": results})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("elastic", type=Path, help="checkpoint of the elastic student")
    parser.add_argument("out", type=Path, help="folder for intermediate files")
    parser.add_argument("--separate", type=Path, help="checkpoint of a separate student to compare with")
    parser.add_argument("--speech", type=Path, action="append", default=[], help="a corpus to evaluate on; repeatable")
    args = parser.parse_args()
    with one_line_errors(KeyError, ValueError):
        run(args.elastic, args.separate, args.out.resolve(), args.speech)


if __name__ == "__main__":
    main()
