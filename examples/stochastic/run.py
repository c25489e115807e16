"""Test the claims of "On-demand compute reduction with stochastic wav2vec 2.0" (Vyas et al. 2022) at a small scale.

    python examples/stochastic/run.py fsdd FSDD_FOLDER                         # 80 minutes on 2 cores; see README.md
    python examples/stochastic/run.py speechocean762 CORPUS.csv --seeds 1 --errors characters --after OUT_OF_FSDD
    python examples/stochastic/run.py fsdd FSDD_FOLDER --quick                 # a few minutes: untrained models

Finished steps are skipped and interrupted trainings continue; remove the output folder to start again.
"""

import argparse
import dataclasses
import itertools
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.progress import Progress

from w2v_compress.data.audio import SAMPLE_RATE, read_audio
from w2v_compress.data.corpora import read_fsdd
from w2v_compress.data.manifest import read_manifest
from w2v_compress.data.prepare import MAX_SECONDS, prepare
from w2v_compress.errors import InputError
from w2v_compress.evaluation.compute import count_compute
from w2v_compress.evaluation.machine import describe_machine, interleaved_latency
from w2v_compress.files import write_json
from w2v_compress.interop.fairseq_checkpoint import export_checkpoint
from w2v_compress.papers.stochastic import Measured, markdown, plot, summarize

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))

from common import (  # noqa: E402
    Unit,
    count_errors_in_parallel,
    file_name,
    load_in_file_precision,
    print_heading,
    publish,
    require_same_settings,
    run_in_parallel,
    split_digits,
    timed,
    train,
    write_corpus,
)
from systems import COMPARISONS, CONTINUED, PRETRAININGS, SPACE, STOCHASTIC, SYSTEMS  # noqa: E402

DATA_SEED = 1
TIMED_SECONDS = 10
RATES = {"words": "WER", "characters": "CER"}


@dataclass(frozen=True)
class Size:
    """The size of a run: training updates, data and shapes."""

    pretraining_updates: int
    updates: int
    continued_updates: int
    strings: int = 5400
    """The number of strings of 1 or 2 digits in all splits (fsdd)."""
    max_seconds: float = MAX_SECONDS
    """The length limit of training and test sentences (speechocean762)."""
    shape: tuple[str, ...] = ()
    """Overrides of pretrain.yaml that set the shape of the networks."""
    overrides: tuple[str, ...] = ()
    """Overrides of both pretrain.yaml and finetune.yaml."""


SIZES = {
    "fsdd": Size(600, 2500, 500),
    "speechocean762": Size(600, 3000, 500, max_seconds=3.5, overrides=("optimization.lr=[0.0005]",)),
}
TINY = ("model.encoder_embed_dim=32", "model.encoder_ffn_embed_dim=32")
QUICK = {"pretraining_updates": 5, "updates": 5, "continued_updates": 5, "strings": 90, "shape": TINY}
ON_GPU = {
    "max_seconds": MAX_SECONDS,
    "pretraining_updates": 20000,
    "updates": 20000,
    "continued_updates": 6000,
    "shape": (
        "model.encoder_layers=12",
        "model.encoder_embed_dim=384",
        "model.encoder_ffn_embed_dim=1536",
        "model.encoder_attention_heads=6",
        "model.conv_feature_layers='[(128, 10, 5)] + [(256, 3, 2)] * 4 + [(384, 2, 2)] * 2'",
    ),
    "overrides": ("common.cpu=false", "+common.bf16=true", "dataset.max_tokens=1600000", "optimization.lr=[0.0005]"),
}
"""Changes for --gpu: longer training of larger networks with batches of 100 s."""


@dataclass(frozen=True)
class Run:
    """An output folder, and the paths of its files."""

    out: Path
    size: Size
    seeds: tuple[int, ...]
    after: Path | None = None
    """A finished run on another corpus, whose systems initialize these instead of a pre-training."""

    @property
    def data(self) -> Path:
        """The manifests."""
        return self.out / "data"

    def training(self, kind: str, name: str, seed: int) -> Path:
        """Return the folder of a training; `kind` is `pretrain` or `finetune`."""
        return self.out / "training" / file_name(f"{kind} {name} seed {seed}")

    def model(self, system: str, seed: int) -> Path:
        """Return the model file of a system."""
        return self.out / f"{file_name(f'{system} seed {seed}')}.safetensors"


def prepare_data(corpus: str, source: Path, run: Run) -> None:
    """Prepare strings of 1 or 2 digits, or the sentences of a CSV corpus with the splits `train` and `dev`."""
    if corpus == "fsdd":
        listing = write_corpus(run.out / "recordings", split_digits(read_fsdd(source)))
        report = prepare("fsdd", listing, run.data, join="1:2", join_count=run.size.strings, seed=DATA_SEED)
    else:
        report = prepare("csv", source, run.data, max_seconds=run.size.max_seconds)
    print(report.summary())


def train_chain(run: Run, start: str, seed: int, progress: Progress) -> None:
    """Run a pre-training, and fine-tune all systems that start from it."""

    def step(kind: str, name: str, updates: int, settings: Sequence[str]) -> Path:
        folder = run.training(kind, name, seed)
        bar = progress.add_task(f"{kind}: {name}, seed {seed}", total=updates)
        done = folder / "done"
        if not done.exists():
            common = [f"common.seed={seed}", f"task.data={run.data}", *run.size.overrides]
            checkpoint = train(
                HERE / f"{kind}.yaml",
                [*common, *settings],
                folder,
                updates,
                threads=1,
                progress=lambda count: progress.update(bar, completed=count),
            )
            write_json(done, {"checkpoint": str(checkpoint)})
        progress.update(bar, completed=updates)
        return folder / "checkpoint_last.pt"

    size = run.size
    if run.after is None:
        pretrained = step("pretrain", start, size.pretraining_updates, [*PRETRAININGS[start], *size.shape])
    for system in SYSTEMS:
        if system.start != start or run.model(system.name, seed).exists():
            continue
        continued = system.name in CONTINUED
        if continued:
            first = run.training("finetune", start, seed) / "checkpoint_last.pt"
        else:
            first = (
                pretrained if run.after is None else dataclasses.replace(run, out=run.after).model(system.name, seed)
            )
        settings = [f"model.w2v_path={first}", f"task.point='{system.point}'", *system.overrides]
        updates = size.continued_updates if continued else size.updates
        checkpoint = step("finetune", system.name, updates, settings)
        export_checkpoint(checkpoint, run.model(system.name, seed))


def train_all(run: Run) -> None:
    """Train the chains of all pre-trainings and seeds in parallel, the longest chains first."""
    by_length = sorted(PRETRAININGS, key=lambda name: -sum(system.start == name for system in SYSTEMS))
    chains = [(start, seed) for seed, start in itertools.product(run.seeds, by_length)]
    run_in_parallel(partial(train_chain, run), chains)


def measure(run: Run, subset: str, unit: Unit) -> Measured:
    """Count the errors of each system at its compression points, for each seed."""
    files = {
        (system.name, point): [(run.model(system.name, seed), point) for seed in run.seeds]
        for system in SYSTEMS
        for point in system.points
    }
    return count_errors_in_parallel(files, run.data, subset, unit)


def measure_costs(run: Run, subset: str) -> list[dict[str, Any]]:
    """Measure compute and time of a stochastic model at each point; the other models differ only in upsampling.

    Utterances are joined to `TIMED_SECONDS` of audio, since each lasts less than a second.
    """
    audio = np.concatenate([read_audio(utterance.path) for utterance in read_manifest(run.data, subset)])
    audio = audio[: TIMED_SECONDS * SAMPLE_RATE]
    seconds = len(audio) / SAMPLE_RATE
    print_heading(f"Timing: {seconds:.0f} s of audio at each point, interleaved, median of 9 runs")
    recognizer = load_in_file_precision(run.model(STOCHASTIC, run.seeds[0]))
    points = SPACE.all_points()
    latency = interleaved_latency(
        {
            str(point): lambda at=point: recognizer.transcribe(audio, SAMPLE_RATE, point=at)  # type: ignore[misc]
            for point in points
        }
    )
    architecture = recognizer.header.architecture
    return [
        {
            "point": str(point),
            "macs_per_second": count_compute(architecture, len(audio), point).total / seconds,
            "milliseconds_per_second": latency[str(point)] / seconds,
        }
        for point in points
    ]


def check_settings(run: Run, source: Path) -> None:
    """Raise InputError if the output folder contains a run with other settings."""
    settings: dict[str, Any] = {"corpus": str(source.resolve()), **dataclasses.asdict(run.size)}
    settings |= {"after": str(run.after)} if run.after else {}
    settings |= {"pretrainings": PRETRAININGS, "systems": [dataclasses.asdict(system) for system in SYSTEMS]}
    settings |= {
        name: yaml.safe_load((HERE / name).read_text(encoding="utf-8")) for name in ("pretrain.yaml", "finetune.yaml")
    }
    require_same_settings(run.out, settings)


def run_all(run: Run, corpus: str, source: Path, subset: str, unit: Unit, command: str) -> None:
    """Run all unfinished steps, then publish the results."""
    missing = [
        path
        for system, seed in itertools.product(SYSTEMS, run.seeds)
        if run.after is not None
        and system.name not in CONTINUED
        and not (path := dataclasses.replace(run, out=run.after).model(system.name, seed)).exists()
    ]
    if missing:
        raise InputError(f"{missing[0]}: no such file; --after must be a finished run with the same seeds")
    run.out.mkdir(parents=True, exist_ok=True)
    check_settings(run, source)
    if not (run.data / "train.tsv").exists():
        print_heading("Preparing the audio")
        with timed(run.out, "preparation"):
            prepare_data(corpus, source, run)
    with timed(run.out, "training"):
        train_all(run)
    print_heading(f"Evaluating on {subset}")
    with timed(run.out, "evaluation"):
        counts = measure(run, subset, unit)
        costs = measure_costs(run, subset)
    utterances = read_manifest(run.data, subset)
    results = {
        "command": command,
        "corpus": corpus,
        "subset": subset,
        "rate": RATES[unit],
        "utterances": len(utterances),
        "words": sum(len(utterance.text.split()) for utterance in utterances),
        "seeds": list(run.seeds),
        "updates": {
            "pretraining": run.size.pretraining_updates,
            "fine-tuning": run.size.updates,
            "continued": run.size.continued_updates,
        },
        "machine": describe_machine(),
        "seconds": json.loads((run.out / "seconds.json").read_text(encoding="utf-8")),
        **summarize(counts, COMPARISONS),
        "costs": costs,
    }
    publish(run.out, results, markdown, plot)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", choices=tuple(SIZES))
    parser.add_argument("source", type=Path, metavar="FOLDER", help="the corpus; for speechocean762 its utterances.csv")
    parser.add_argument("--out", type=Path, help="output folder (default: out-CORPUS beside this script)")
    parser.add_argument("--quick", action="store_true", help="tiny models and few updates")
    parser.add_argument("--gpu", action="store_true", help="train larger networks for longer, all on one CUDA GPU")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="one or more seeds")
    parser.add_argument(
        "--subset",
        choices=("dev", "valid"),
        default="dev",
        help="subset to evaluate on; valid (fsdd only) is for choosing recipes",
    )
    parser.add_argument(
        "--after", type=Path, help="initialize from the systems of this finished run instead of pre-training"
    )
    parser.add_argument(
        "--errors", choices=tuple(RATES), default="words", help="errors to count; characters if few words are correct"
    )
    args = parser.parse_args()
    seeds = tuple(dict.fromkeys(args.seeds))
    if args.subset == "valid" and args.corpus != "fsdd":
        parser.error("--subset valid: only available for fsdd")
    if args.quick and args.gpu:
        parser.error("--quick cannot be combined with --gpu")
    mode = "quick" if args.quick else "gpu" if args.gpu else ""
    name = "-".join(part for part in ("out", args.corpus, mode) if part)
    changes: dict[str, Any] = {"quick": QUICK, "gpu": ON_GPU}.get(mode, {})
    size = dataclasses.replace(SIZES[args.corpus], **changes)
    command = f"python examples/stochastic/run.py {args.corpus} FOLDER" + (f" --{mode}" if mode else "")
    command += f" --seeds {' '.join(map(str, seeds))} --subset {args.subset}"
    command += " --after FINISHED" if args.after else ""
    command += f" --errors {args.errors}" if args.errors != "words" else ""
    run = Run((args.out or HERE / name).resolve(), size, seeds, args.after and args.after.resolve())
    try:
        run_all(run, args.corpus, args.source, args.subset, args.errors, command)
    except InputError as error:
        sys.exit(f"stochastic: {error}")


if __name__ == "__main__":
    main()
