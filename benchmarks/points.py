"""Measured speed-up of compression points, compared with the saved multiply-accumulates; docs/stochastic.md.

    python benchmarks/points.py --json benchmarks/results/points.json

Runs only the encoder of full-size base (positional convolution, layers, upsampling) at batch size 1. Weights and
features are random, on which times do not depend. The runs of all points are interleaved in one process. Prints a
table, writes counts and times with --json, and exits with status 1 when a measured speed-up is below 0.7 of the counted
one.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from w2v_compress.cli.console import print_table
from w2v_compress.data.audio import SAMPLE_RATE
from w2v_compress.evaluation.compute import count_compute
from w2v_compress.evaluation.machine import describe_machine, interleaved_latency
from w2v_compress.files import write_json
from w2v_compress.nn.acoustic_model import AcousticModel
from w2v_compress.nn.architecture import named_architecture
from w2v_compress.nn.compression import UNCOMPRESSED, CompressionPoint

POINTS = tuple(map(CompressionPoint.parse, ("1,1,1", "2,1,1", "1,2,1", "1,1,2", "1,2,2", "2,2,2", "4,1,1")))
MIN_SHARE = 0.7  # least ratio of the measured to the counted speed-up


@torch.inference_mode()
def main() -> None:
    """Run the benchmark, print a table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the results to this JSON file")
    parser.add_argument("--architecture", default="base")
    parser.add_argument("--seconds", type=float, default=10.0, help="seconds of audio")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    architecture = named_architecture(arguments.architecture)
    samples = round(arguments.seconds * SAMPLE_RATE)
    encoder = AcousticModel(architecture).eval().w2v_model.encoder
    features = torch.randn(1, architecture.frames(samples), architecture.encoder_embed_dim)
    runs = {str(point): lambda point=point: encoder(features, None, point) for point in POINTS}
    milliseconds = interleaved_latency(runs, arguments.repeats)
    macs = {str(point): count_compute(architecture, samples, point).encoder for point in POINTS}
    baseline = str(UNCOMPRESSED)
    rows: list[dict[str, Any]] = [
        {
            "point": point,
            "encoder_macs": macs[point],
            "milliseconds": milliseconds[point],
            "counted_speed_up": (counted := macs[baseline] / macs[point]),
            "measured_speed_up": (measured := milliseconds[baseline] / milliseconds[point]),
            "share": measured / counted,
        }
        for point in macs
    ]
    print_table(
        f"Encoder of {arguments.architecture}, {arguments.seconds:g} s of audio, {torch.get_num_threads()} threads",
        ["point", "GMAC", "ms", "fewer MACs", "faster", "share"],
        [
            [
                str(row["point"]),
                f"{1e-9 * row['encoder_macs']:.2f}",
                f"{row['milliseconds']:.1f}",
                f"{row['counted_speed_up']:.2f}x",
                f"{row['measured_speed_up']:.2f}x",
                f"{row['share']:.2f}",
            ]
            for row in rows
        ],
    )
    if arguments.json:
        settings = {name: getattr(arguments, name) for name in ("architecture", "seconds", "repeats", "seed")}
        command = "python benchmarks/points.py"
        write_json(arguments.json, {"command": command, **settings, "machine": describe_machine(), "points": rows})
    missed = [str(row["point"]) for row in rows if row["share"] < MIN_SHARE]
    if missed:
        sys.exit(f"measured speed-up below {MIN_SHARE} of the counted one at {' '.join(missed)}")


if __name__ == "__main__":
    main()
