"""What a pre-training costs on 1 to 512 GPUs: counts per compression point, a model of the time, and its check here.

    python benchmarks/scale.py --json benchmarks/results/scale.json

1. Per point: the bytes of gradients that the ranks exchange and of activations that are kept for the backward pass, and
   the multiply-accumulates of a forward pass.
2. Check: 1, 2 and 4 processes with one thread each run updates on this machine. The model predicts their time as that
   of updates without an exchange, run by as many processes at once, plus that of the exchange alone; its bytes are
   counted at the loopback interface. The kinds of runs are interleaved.
3. The same model for GPUs, from the counts and the assumptions that are options below; docs/scale.md explains it. It is
   compared with the throughput that others have published for base on 1 to 64 GPUs.

Models have random weights and noise as input, on which neither times nor bytes depend. Prints tables, and writes all
figures with --json.
"""

import argparse
import json
import logging
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

import psutil
import torch
from fairseq.trainer import Trainer
from training import TrainingBenchmark

from w2v_compress.cli.console import print_table
from w2v_compress.data.audio import SAMPLE_RATE
from w2v_compress.evaluation.compute import count_compute
from w2v_compress.evaluation.machine import describe_machine
from w2v_compress.evaluation.report import megabytes
from w2v_compress.files import write_json
from w2v_compress.nn.architecture import Architecture, named_architecture
from w2v_compress.nn.compression import CompressionPoint, CompressionSpace, parse_points

MODEL = "stochastic_sew"
SPACE = CompressionSpace()
"""Points of the paper's recipe."""
BASE_PARAMETERS = 95_044_608
"""Parameters of base in pre-training."""
SAMPLED = "sampled"
BATCHES = 64
"""Batches of `samples` in an update of the recipe; fewer GPUs accumulate gradients over several."""
GPUS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
BYTES = 2  # of a gradient in fp16 or bf16
V100, A100 = 125e12, 312e12
"""Peak operations per second in half precision."""


@dataclass(frozen=True)
class Published:
    """The time of an update of base as others have measured it, in half precision, with the batches of the recipe."""

    source: str
    gpus: int
    flops: float
    """Peak of a GPU."""
    points: dict[str, int]
    """Layers of the network at each compression point: an Hourglass transformer squeezes the layers in its middle."""
    seconds: float


HOURGLASS = {"1,1,1": 4, "4,1,1": 8}
NVIDIA = "NVIDIA DeepLearningExamples, wav2vec2, DGX A100, bf16"
EIGHT = 48.1 * 3600 / 400_000
"""Seconds of an update on eight A100: 400,000 took 48.1 hours."""
PUBLISHED = (
    Published(f"{NVIDIA}: strong scaling", 1, A100, HOURGLASS, EIGHT * 6.96),
    Published(f"{NVIDIA}: strong scaling", 4, A100, HOURGLASS, EIGHT * 6.96 / 3.69),
    Published(f"{NVIDIA}: 48.1 h", 8, A100, HOURGLASS, EIGHT),
    Published(
        "wav2vec 2.0 (Baevski et al. 2020), V100, fp16: 1.6 days", 64, V100, {"1,1,1": 12}, 1.6 * 86400 / 400_000
    ),
)
"""The utilization and the spread below are those that suit one and eight A100; 64 V100 test the model."""


@dataclass(frozen=True)
class Cluster:
    """Assumptions on a cluster."""

    flops: float
    """Peak operations per second of a GPU, in half precision."""
    utilization: float
    """Share of the peak that training reaches."""
    gpus_per_node: int
    node_bandwidth: float
    """Bytes per second between the GPUs of a node, each way."""
    network_bandwidth: float
    """Bytes per second between nodes, each way, for each node."""
    latency: float
    """Seconds of a step of an exchange."""
    spread: float
    """Standard deviation of the compute time of a batch between ranks, as a share of its mean."""

    def compute(self, macs: float) -> float:
        """Return the seconds of a batch: a backward pass has twice the operations of a forward pass."""
        return 3 * 2 * macs / (self.flops * self.utilization)

    def exchange(self, gpus: int, size: float) -> float:
        """Return the seconds of an all-reduce of `size` bytes: each rank sends and receives 2 (n - 1) / n of them.

        All traffic of a node passes its network interface, which is then the slowest link. Steps grow with log2 (n), as
        in NCCL's trees.
        """
        if gpus == 1:
            return 0.0
        bandwidth = self.node_bandwidth
        if gpus > self.gpus_per_node:
            bandwidth = min(bandwidth, self.network_bandwidth)
        return exchanged(gpus, size) / bandwidth + 2 * math.log2(gpus) * self.latency

    def update(self, gpus: int, macs: float, size: float) -> float:
        """Return the seconds of an update of at least `BATCHES` batches; without overlap, as with `legacy_ddp`."""
        batches = max(1, BATCHES // gpus)
        waiting = 1 + self.spread / math.sqrt(batches) * expected_largest(gpus)
        return batches * self.compute(macs) * waiting + self.exchange(gpus, size)


def exchanged(processes: int, size: float) -> float:
    """Return the bytes that each process sends in a ring all-reduce of `size` bytes."""
    return 2 * (processes - 1) / processes * size


def expected_largest(count: int) -> float:
    """Return the expected largest of `count` standard normal values (Blom's approximation)."""
    return NormalDist().inv_cdf((count - 0.375) / (count + 0.25)) if count > 1 else 0.0


def macs_per_second(architecture: Architecture, point: CompressionPoint, crop: float) -> float:
    """Return the multiply-accumulates of a forward pass per second of audio, for utterances of `crop` seconds."""
    return count_compute(architecture, round(SAMPLE_RATE * crop), point).total / crop


def compare(arguments: argparse.Namespace, cluster: Cluster) -> list[dict[str, Any]]:
    """Return the model's seconds for each of `PUBLISHED` beside the published ones."""
    architecture = named_architecture("base")
    rows = []
    for published in PUBLISHED:
        macs = sum(
            macs_per_second(architecture, CompressionPoint.parse(point), arguments.crop) * layers
            for point, layers in published.points.items()
        )
        macs *= arguments.samples / SAMPLE_RATE / architecture.encoder_layers
        there = replace(cluster, flops=published.flops)
        predicted = there.update(published.gpus, macs, BYTES * BASE_PARAMETERS)
        rows.append(asdict(published) | {"predicted_seconds": predicted, "share": predicted / published.seconds})
    return rows


# The counts of a point.


@contextmanager
def kept_activations(trainer: Trainer) -> Iterator[dict[int, int]]:
    """Collect the storages that autograd keeps for the backward pass, with their bytes; not those of weights."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in trainer.model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield kept


def trained_parameters(trainer: Trainer) -> int:
    """Return the number of parameters with a gradient, which the ranks exchange."""
    return sum(each.numel() for each in trainer.model.parameters() if each.requires_grad)


def count(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the counts of each point."""
    architecture = named_architecture(arguments.architecture)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        benchmark = TrainingBenchmark("pre-training", arguments, Path(folder))
        trainer = benchmark.trainer(MODEL)
        parameters = trained_parameters(trainer)
        for point in parse_points(arguments.points.split()):
            with kept_activations(trainer) as kept:
                benchmark.update(trainer, str(point))()
            activations = sum(kept.values()) / (arguments.batch * arguments.seconds)
            rows.append(
                {
                    "point": str(point),
                    "parameters": parameters,
                    "gradient_bytes": BYTES * parameters,
                    "activation_bytes_per_second_fp32": activations,
                    "macs_per_second": macs_per_second(architecture, point, arguments.crop),
                }
            )
    return rows


# The check: this script runs itself with several processes.


def timed(run: Callable[[], Any]) -> float:
    """Return the seconds of a call that all processes begin together, until the last one ends."""
    torch.distributed.barrier()
    start = time.perf_counter()
    run()
    torch.distributed.barrier()
    return time.perf_counter() - start


def worker(arguments: argparse.Namespace) -> None:
    """Measure as one of several processes; the first writes the results to `arguments.worker`."""
    logging.disable(logging.INFO)  # fairseq lists shared parameters
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    processes = torch.distributed.get_world_size()
    with tempfile.TemporaryDirectory() as folder:
        benchmark = TrainingBenchmark("pre-training", arguments, Path(folder))
        alone, together = benchmark.trainer(MODEL), benchmark.trainer(MODEL, processes)
        gradients = torch.zeros(trained_parameters(together))
        runs = {"exchange": lambda: torch.distributed.all_reduce(gradients)}
        for point in arguments.points.split():
            runs[f"compute {point}"] = benchmark.update(alone, point)
            runs[f"update {point}"] = benchmark.update(together, point)
        times: dict[str, list[float]] = {name: [] for name in runs}
        traffic: dict[str, list[float]] = {name: [] for name in runs}
        for repeat in range(arguments.repeats + 1):
            for name, run in runs.items():
                before = loopback()
                seconds = timed(run)
                if repeat:  # the first is a warm-up
                    times[name].append(seconds)
                    traffic[name].append((loopback() - before) / processes)
    if torch.distributed.get_rank() == 0:
        size = gradients.numel() * gradients.element_size()
        write_json(arguments.worker, {"bytes": size, "times": times, "traffic": traffic})
    torch.distributed.destroy_process_group()


def loopback() -> int:
    """Return the bytes sent so far over the loopback interface."""
    return psutil.net_io_counters(pernic=True)["lo"].bytes_sent


def check(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Compare measured updates with the model, for each number of processes and each point."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for processes in arguments.processes:
            output = Path(folder) / f"{processes}.json"
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
            command += [__file__, "--worker", str(output), "--architecture", arguments.check_architecture]
            command += ["--points", arguments.check_points, "--repeats", str(arguments.repeats)]
            command += ["--batch", str(arguments.batch), "--seconds", str(arguments.seconds)]
            command += ["--seed", str(arguments.seed)]
            environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
            subprocess.run(command, env=environment, check=True)
            measured = json.loads(output.read_text(encoding="utf-8"))
            medians = {name: statistics.median(values) for name, values in measured["times"].items()}
            exchange = medians["exchange"] if processes > 1 else 0.0
            for point in arguments.check_points.split():
                predicted = medians[f"compute {point}"] + exchange
                rows.append(
                    {
                        "processes": processes,
                        "point": point,
                        "compute_seconds": medians[f"compute {point}"],
                        "exchange_seconds": exchange,
                        "predicted_seconds": predicted,
                        "measured_seconds": medians[f"update {point}"],
                        "share": predicted / medians[f"update {point}"],
                        "predicted_bytes": exchanged(processes, measured["bytes"]),
                        "measured_bytes": statistics.median(measured["traffic"][f"update {point}"]),
                        "times": measured["times"][f"update {point}"],
                    }
                )
    return rows


# The model for GPUs.


def predict(arguments: argparse.Namespace, cluster: Cluster, size: float) -> list[dict[str, Any]]:
    """Return time and throughput for each number of GPUs, at each point and at the sampled points of the recipe."""
    architecture = named_architecture(arguments.architecture)
    asked, audio_seconds = parse_points(arguments.points.split()), arguments.samples / SAMPLE_RATE
    macs = {
        str(point): macs_per_second(architecture, point, arguments.crop) * audio_seconds
        for point in {*SPACE.all_points(), *asked}
    }
    rows = []
    for gpus in GPUS:
        audio = max(gpus, BATCHES) * audio_seconds
        for name in [*map(str, asked), SAMPLED]:
            points = map(str, SPACE.all_points()) if name == SAMPLED else [name]
            seconds = statistics.mean(cluster.update(gpus, macs[point], size) for point in points)
            slowest = cluster.update(gpus, macs[str(SPACE.largest)], size)
            rows.append(
                {
                    "gpus": gpus,
                    "point": name,
                    "seconds": seconds,
                    "exchange_seconds": cluster.exchange(gpus, size),
                    "audio_hours_per_hour": audio / seconds,
                    "days_for_100000_updates": seconds * 1e5 / 86400,
                    "times_faster_than_uncompressed": slowest / seconds,
                }
            )
    for row in rows:
        one = next(other for other in rows if other["gpus"] == 1 and other["point"] == row["point"])
        row["efficiency"] = row["audio_hours_per_hour"] / (row["gpus"] * one["audio_hours_per_hour"])
    return rows


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the results to this JSON file")
    parser.add_argument("--architecture", default="base")
    parser.add_argument("--points", default="1,1,1 1,2,2 2,1,1 2,2,2 4,1,1 4,2,2", help="points S,Q,K of the tables")
    parser.add_argument("--check-points", default="1,1,1 2,2,2", help="points of the check")
    parser.add_argument(
        "--check-architecture", default="student-4", help="network of the check, which runs eight at once"
    )
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2, 4], help="of the check; none leaves it out")
    parser.add_argument("--batch", type=int, default=1, help="utterances in a batch, here")
    parser.add_argument("--seconds", type=float, default=3.0, help="seconds of each")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    cluster = parser.add_argument_group("assumptions on the cluster and the recipe")
    cluster.add_argument("--samples", type=int, default=1_400_000, help="samples in a batch of one GPU")
    cluster.add_argument("--crop", type=float, default=15.6, help="seconds of an utterance")
    cluster.add_argument("--flops", type=float, default=A100, help="peak of a GPU in half precision")
    cluster.add_argument("--utilization", type=float, default=0.18, help="share of the peak that is reached")
    cluster.add_argument("--gpus-per-node", type=int, default=8)
    cluster.add_argument("--node-bandwidth", type=float, default=200e9, help="bytes per second inside a node")
    cluster.add_argument("--network-bandwidth", type=float, default=20e9, help="bytes per second of a node's network")
    cluster.add_argument("--latency", type=float, default=20e-6, help="seconds of a step of an exchange")
    cluster.add_argument("--spread", type=float, default=0.3, help="deviation of a batch's time between ranks")
    arguments = parser.parse_args()
    arguments.device = "cpu"
    return arguments


def main() -> None:
    """Count, check and predict."""
    arguments = parse_arguments()
    if arguments.worker:
        worker(arguments)
        return
    cluster = Cluster(
        **{name: getattr(arguments, name) for name in Cluster.__dataclass_fields__}  # options have the fields' names
    )
    counts = count(arguments)
    size = counts[0]["gradient_bytes"]
    print_table(
        f"Pre-training of {arguments.architecture}, per point",
        ["point", "exchanged per update", "activations per s of audio, fp32", "GMAC per s of audio"],
        [
            [
                *(row["point"], megabytes(row["gradient_bytes"])),
                *(megabytes(row["activation_bytes_per_second_fp32"]), f"{row['macs_per_second'] / 1e9:.2f}"),
            ]
            for row in counts
        ],
    )
    checks = check(arguments)
    if checks:
        print_table(
            f"Model and measurement on this machine, {arguments.check_architecture}, one thread a process",
            [
                "processes",
                "point",
                "compute, s",
                "exchange, s",
                "predicted, s",
                "measured, s",
                "ratio",
                "sent",
                "counted",
            ],
            [
                [
                    *(str(row["processes"]), row["point"], f"{row['compute_seconds']:.2f}"),
                    *(f"{row['exchange_seconds']:.2f}", f"{row['predicted_seconds']:.2f}"),
                    *(f"{row['measured_seconds']:.2f}", f"{row['share']:.2f}"),
                    *(megabytes(row["predicted_bytes"]), megabytes(row["measured_bytes"])),
                ]
                for row in checks
            ],
        )
    predictions = predict(arguments, cluster, size)
    shown = [row for row in predictions if row["point"] in ("1,1,1", SAMPLED)]
    print_table(
        f"Model of a pre-training of {arguments.architecture} on GPUs",
        ["GPUs", "point", "update, s", "of it exchange", "audio h per h", "efficiency", "days per 100,000 updates"],
        [
            [
                *(str(row["gpus"]), row["point"], f"{row['seconds']:.3f}", f"{row['exchange_seconds']:.3f}"),
                *(f"{row['audio_hours_per_hour']:.0f}", f"{row['efficiency']:.2f}"),
                f"{row['days_for_100000_updates']:.2f}",
            ]
            for row in shown
        ],
    )
    published = compare(arguments, cluster)
    print_table(
        "Model and published times of an update of base",
        ["source", "GPUs", "published, s", "predicted, s", "ratio"],
        [
            [
                *(row["source"], str(row["gpus"]), f"{row['seconds']:.3f}"),
                *(f"{row['predicted_seconds']:.3f}", f"{row['share']:.2f}"),
            ]
            for row in published
        ],
    )
    if arguments.json:
        names = ("architecture", "check_architecture", "batch", "seconds", "repeats", "seed", "samples", "crop")
        write_json(
            arguments.json,
            {
                "command": "python benchmarks/scale.py",
                **{name: getattr(arguments, name) for name in names},
                "machine": describe_machine(threads=1),
                "cluster": asdict(cluster),
                "points": counts,
                "check": checks,
                "published": published,
                "prediction": predictions,
            },
        )


if __name__ == "__main__":
    main()
