"""Training speed of our models, compared with stock wav2vec 2.0 of the same shape, under fairseq's own trainer.

    python benchmarks/training.py --json benchmarks/results/training.json                     # CPU, fp32
    python benchmarks/training.py --device cuda --json benchmarks/results/training_gpu.json   # one GPU, bf16

An update is fairseq's `Trainer.train_step` on one batch of noise: forward and backward pass, gradients, Adam. Settings
are those of the recipes in configs/ (dropout, masks, frozen extractor in fine-tuning), without layer drop, so that all
updates do the same work; weights are random. Updates are interleaved. On a GPU, the peak memory is measured with only
one model on the device. `sampled` draws a compression point of the recipe for each update; its time is the mean, that
of other points the median. Prints a table, and writes the times of all updates with --json.
"""

import argparse
import contextlib
import gc
import io
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from fairseq import tasks
from fairseq.dataclass.configs import FairseqConfig
from fairseq.dataclass.initialize import add_defaults
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config, Wav2Vec2Model
from fairseq.trainer import Trainer
from omegaconf import OmegaConf

import w2v_compress.models  # noqa: F401  (patches fairseq and registers our models)
from w2v_compress.cli.console import print_table
from w2v_compress.data.audio import SAMPLE_RATE
from w2v_compress.data.units import Units
from w2v_compress.evaluation.machine import describe_machine, interleaved_times
from w2v_compress.evaluation.report import megabytes
from w2v_compress.files import write_json
from w2v_compress.nn.architecture import named_architecture
from w2v_compress.nn.compression import CompressionPoint, parse_points
from w2v_compress.tasks.compression import CompressionTask

SHAPES = {"cpu": (1, 5.0), "cuda": (6, 15.0)}
"""Utterances in a batch and seconds of each; on a GPU about 1.4 million samples, as in the recipe."""
UNITS_PER_SECOND = 15  # units of a transcript per second of audio
UPDATES_FOR_MEMORY = 3
STOCK_POINT = "1,1,1"
SAMPLED = "sampled"
UNSQUEEZED = "pooled_transformer"
SHARED: dict[str, dict[str, Any]] = {
    "optimizer": {"_name": "adam", "adam_betas": "(0.9,0.98)", "adam_eps": 1e-6, "weight_decay": 0.01},
    "lr_scheduler": {"_name": "fixed"},
    "optimization": {"lr": [1e-6]},
}


@dataclass(frozen=True)
class Recipe:
    """Pre-training or fine-tuning: registry names and settings of configs/."""

    fine_tuning: bool
    stock_task: str
    task: str
    stock: str
    ours: tuple[str, ...]
    criterion: dict[str, Any]
    model: dict[str, Any]


KINDS = {
    "pre-training": Recipe(
        fine_tuning=False,
        stock_task="audio_pretraining",
        task="compressed_pretraining",
        stock="wav2vec2",
        ours=("stochastic_sew", "pooled_transformer"),
        criterion={"_name": "wav2vec", "infonce": True, "loss_weights": [0.1, 10], "log_keys": ["prob_perplexity"]},
        model={
            "quantize_targets": True,
            "final_dim": 256,
            "encoder_layerdrop": 0.0,
            "dropout_input": 0.1,
            "dropout_features": 0.1,
            "feature_grad_mult": 0.1,
        },
    ),
    "fine-tuning": Recipe(
        fine_tuning=True,
        stock_task="audio_finetuning",
        task="compressed_finetuning",
        stock="wav2vec_ctc",
        ours=("compressed_ctc",),
        criterion={"_name": "ctc", "zero_infinity": True},
        model={
            "apply_mask": True,
            "mask_prob": 0.65,
            "mask_channel_prob": 0.5,
            "mask_channel_length": 64,
            "activation_dropout": 0.1,
            "layerdrop": 0.0,
            "feature_grad_mult": 0.0,
            "freeze_finetune_updates": 0,
        },
    ),
}


@dataclass
class Row:
    """Results of one model at one compression point."""

    kind: str
    model: str
    point: str
    milliseconds: float
    times_faster: float
    """Speed-up over the stock model in the same kind of training and the same rounds."""
    updates_per_second: float
    audio_per_second: float
    """Seconds of audio trained per second."""
    peak_bytes: int | None
    """Peak memory on a GPU."""
    times: list[float]
    """Milliseconds of each update."""


class TrainingBenchmark:
    """Benchmark of the models of one kind of training on one batch."""

    def __init__(self, kind: str, arguments: argparse.Namespace, folder: Path) -> None:
        self.kind, self.recipe, self.arguments, self.folder = kind, KINDS[kind], arguments, folder
        self.network = named_architecture(arguments.architecture).to_fairseq()
        self.batch = noise_batch(arguments)

    def measure(self) -> list[Row]:
        """Measure the stock model, and ours at each point."""
        models = (self.recipe.stock, *self.recipe.ours)
        peaks: dict[tuple[str, str], int] = {}
        if self.arguments.device == "cuda":
            for model in models:
                peaks |= self.peak_memory(model)
        trainers = {model: self.trainer(model) for model in models}
        runs = {(model, point): self.update(trainers[model], point) for model in models for point in self.points(model)}
        times = interleaved_times(runs, self.arguments.repeats)
        stock = statistics.median(times[self.recipe.stock, STOCK_POINT])
        seconds = self.arguments.batch * self.arguments.seconds
        rows = []
        for (model, point), values in times.items():
            milliseconds = statistics.mean(values) if point == SAMPLED else statistics.median(values)
            rows.append(
                Row(
                    kind=self.kind,
                    model=model,
                    point=point,
                    milliseconds=milliseconds,
                    times_faster=stock / milliseconds,
                    updates_per_second=1000 / milliseconds,
                    audio_per_second=1000 * seconds / milliseconds,
                    peak_bytes=peaks.get((model, point)),
                    times=values,
                )
            )
        return rows

    def points(self, model: str) -> list[str]:
        """Return the requested points that a model supports, and `sampled`; stock models only train at (1, 1, 1)."""
        if model == self.recipe.stock:
            return [STOCK_POINT]
        points = parse_points(self.arguments.points.split())
        return [str(point) for point in points if model != UNSQUEEZED or point.squeeze == 1] + [SAMPLED]

    def trainer(self, name: str, processes: int = 1) -> Trainer:
        """Return fairseq's trainer of a model with random weights from the common seed.

        With several processes, those of torch's process group exchange their gradients.
        """
        stock = name == self.recipe.stock
        values = {
            "common": {"seed": self.arguments.seed, "cpu": self.arguments.device == "cpu"},
            "task": {"_name": self.recipe.stock_task if stock else self.recipe.task, "data": str(self.folder)},
            "model": {"_name": name, **self.recipe.model},
            "criterion": self.recipe.criterion,
            "checkpoint": {"save_dir": str(self.folder)},  # where the trainer writes its state after an error
            **SHARED,
            "distributed_training": {"distributed_world_size": processes, "ddp_backend": "legacy_ddp"},
        }
        values["common"]["bf16"] = self.arguments.device == "cuda"
        if name == UNSQUEEZED:
            values["task"]["squeeze"] = [1]
        if self.recipe.fine_tuning:
            values["task"]["labels"] = "ltr"
            values["model"]["w2v_path"] = str(self.pretrained())
        else:
            values["model"] = self.network | values["model"]
        cfg = OmegaConf.merge(OmegaConf.structured(FairseqConfig), values)
        add_defaults(cfg)
        cfg = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True, enum_to_str=True))
        torch.manual_seed(self.arguments.seed)
        task = tasks.setup_task(cfg.task)
        with contextlib.redirect_stdout(io.StringIO()):  # stock `wav2vec_ctc` prints its network
            model = task.build_model(cfg.model)
        return Trainer(cfg, task, model, task.build_criterion(cfg.criterion))

    def pretrained(self) -> Path:
        """Write a fairseq checkpoint of a pre-trained network of this shape with random weights, and its dictionary."""
        path = self.folder / "pretrained.pt"
        if not path.exists():
            settings = {name: value for name, value in self.network.items() if name != "_name"}
            torch.manual_seed(self.arguments.seed)
            model = Wav2Vec2Model(Wav2Vec2Config(**settings))
            task = {"_name": "audio_pretraining", "data": "", "normalize": False}
            saved: dict[str, Any] = {"cfg": {"model": self.network, "task": task}, "model": model.state_dict()}
            history = {"optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 0}
            torch.save(saved | {"args": None, "optimizer_history": [history], "extra_state": {"epoch": 0}}, path)
            Units.letters().write_dictionary(self.folder / "dict.ltr.txt")
        return path

    def update(self, trainer: Trainer, point: str) -> Callable[[], None]:
        """Return a function that runs one update at `point`."""

        def run() -> None:
            if isinstance(trainer.task, CompressionTask):
                trainer.task.point = None if point == SAMPLED else CompressionPoint.parse(point)
            trainer.train_step([self.batch])
            if self.arguments.device == "cuda":
                torch.cuda.synchronize()

        return run

    def peak_memory(self, model: str) -> dict[tuple[str, str], int]:
        """Return the peak GPU memory of updates at each point, with only this model on the GPU."""
        gc.collect()  # frees trainers, which are part of reference cycles
        trainer = self.trainer(model)
        peaks = {}
        for point in self.points(model):
            run = self.update(trainer, point)
            torch.cuda.reset_peak_memory_stats()
            for _ in range(UPDATES_FOR_MEMORY):
                run()
            peaks[model, point] = torch.cuda.max_memory_allocated()
        return peaks


def noise_batch(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return a batch of utterances of noise with transcripts, in fairseq's format."""
    generator = torch.Generator().manual_seed(arguments.seed)
    count, samples = arguments.batch, round(arguments.seconds * SAMPLE_RATE)
    units = max(1, round(UNITS_PER_SECOND * arguments.seconds))
    source = torch.randn(count, samples, generator=generator)
    return {
        "id": torch.arange(count),
        "net_input": {"source": source, "padding_mask": torch.zeros(count, samples, dtype=torch.bool)},
        "target": torch.randint(4, 32, (count, units), generator=generator),
        "target_lengths": torch.full((count,), units),
        "ntokens": count * units,
    }


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the results to this JSON file")
    parser.add_argument("--device", choices=tuple(SHAPES), default="cpu")
    parser.add_argument("--architecture", default="base")
    parser.add_argument("--kinds", nargs="+", choices=tuple(KINDS), default=list(KINDS))
    parser.add_argument(
        "--points", default="1,1,1 2,1,1 2,2,2 4,1,1", help="compression points S,Q,K, separated by spaces"
    )
    parser.add_argument(
        "--batch", type=int, help=f"utterances (default: {SHAPES['cpu'][0]}, on a GPU {SHAPES['cuda'][0]})"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        help=f"seconds of each (default: {SHAPES['cpu'][1]:g}, on a GPU {SHAPES['cuda'][1]:g})",
    )
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    batch, seconds = SHAPES[arguments.device]
    arguments.batch, arguments.seconds = arguments.batch or batch, arguments.seconds or seconds
    return arguments


def main() -> None:
    """Run the benchmark, print a table and write the results."""
    arguments = parse_arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    rows: list[Row] = []
    for kind in arguments.kinds:
        with tempfile.TemporaryDirectory() as folder:
            rows += TrainingBenchmark(kind, arguments, Path(folder)).measure()
    shape = f"{arguments.batch} x {arguments.seconds:g} s"
    print_table(
        f"Updates of {arguments.architecture}, {shape}, on {arguments.device}",
        ["training", "model", "point", "ms", "speed-up", "updates per s", "audio s per s", "peak memory"],
        [
            [
                *(row.kind, row.model, row.point, f"{row.milliseconds:.0f}", f"{row.times_faster:.2f}"),
                *(f"{row.updates_per_second:.2f}", f"{row.audio_per_second:.1f}"),
                "-" if row.peak_bytes is None else megabytes(row.peak_bytes),
            ]
            for row in rows
        ],
    )
    if arguments.json:
        names = ("device", "architecture", "batch", "seconds", "repeats", "seed")
        settings = {name: getattr(arguments, name) for name in names}
        settings["precision"] = "bf16" if arguments.device == "cuda" else "fp32"
        command = "python benchmarks/training.py" + (" --device cuda" if arguments.device == "cuda" else "")
        machine = describe_machine(arguments.device)
        write_json(
            arguments.json,
            {"command": command, **settings, "machine": machine, "updates": [asdict(row) for row in rows]},
        )


if __name__ == "__main__":
    main()
