"""What a compression point saves in time, against what it saves in multiply-accumulates; docs/stochastic.md.

    python benchmarks/points.py --json benchmarks/results/points.json

The encoder of full-size base alone (positional convolution, layers, upsampling), batch 1, random weights and features,
on which times do not depend. All points run in turns in one process. Exit status 1 when a point's measured speed-up is
below 0.7 of the counted one.
"""

import argparse
import sys
from pathlib import Path

import torch

from w2v_compress.cli.console import print_table
from w2v_compress.data.audio import SAMPLE_RATE
from w2v_compress.evaluation.compute import count_compute
from w2v_compress.evaluation.machine import describe_machine, interleaved_latency
from w2v_compress.files import write_json
from w2v_compress.nn import UNCOMPRESSED, AcousticModel, CompressionPoint, named_architecture

POINTS = tuple(map(CompressionPoint.parse, ("1,1,1", "2,1,1", "1,2,1", "1,1,2", "1,2,2", "2,2,2", "4,1,1")))
LEAST_SHARE = 0.7  # of the counted speed-up that must be measured


@torch.inference_mode()
def main() -> None:
    """Measure, show and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--architecture", default="base")
    parser.add_argument("--seconds", type=float, default=10.0, help="of audio")
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
    runs = {str(point): lambda point=point: encoder(features, None, point) for point in POINTS}  # type: ignore[misc]
    milliseconds = interleaved_latency(runs, arguments.repeats)
    macs = {str(point): count_compute(architecture, samples, point).encoder for point in POINTS}
    reference = str(UNCOMPRESSED)
    rows = [
        {
            "point": point,
            "encoder_macs": macs[point],
            "milliseconds": milliseconds[point],
            "counted_speed_up": (counted := macs[reference] / macs[point]),
            "measured_speed_up": (measured := milliseconds[reference] / milliseconds[point]),
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
    missed = [str(row["point"]) for row in rows if row["share"] < LEAST_SHARE]
    if missed:
        sys.exit(f"measured speed-up below {LEAST_SHARE} of the counted one at {' '.join(missed)}")


if __name__ == "__main__":
    main()
