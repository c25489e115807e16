"""Time and memory of the readers of manifests: 20 million utterances by default.

    python benchmarks/manifests.py --json benchmarks/results/manifests.json

Writes a manifest, transcripts and labels to a temporary folder (2.6 GB for 20 million), and reads them, each reader in
a process of its own: `read_manifest`, which evaluation and transcription use; `check_manifest`, which runs before a
training; and the dataset of a pre-training. Prints a table, and writes the results with --json. Memory is the peak of
the process; the part that is mapped from files can be given back by the operating system.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from w2v_compress.cli.console import print_table
from w2v_compress.evaluation.machine import describe_machine
from w2v_compress.files import write_json

READERS = {
    "read_manifest": "found = read_manifest(folder, 'train'); found[len(found) // 2]",
    "check_manifest": "check_manifest(folder, 'train', 'ltr', '|ABCDEFGHIJKLMNOPQRSTUVWXYZ')",
    "dataset of a pre-training": "found = AudioDataset(str(folder / 'train.tsv'), 16_000, subset='train', "
    "frames=Architecture().frames, min_frames=1, max_sample_size=250_000); found.ordered_indices()",
}
PROGRAM = """
import json, sys, time
from pathlib import Path
import psutil
from w2v_compress.data.manifest import read_manifest
from w2v_compress.data.manifest_check import check_manifest
from w2v_compress.memory import peak_memory
from w2v_compress.nn.architecture import Architecture
if "AudioDataset" in sys.argv[2]:
    from w2v_compress.tasks.audio_dataset import AudioDataset
folder, before, start = Path(sys.argv[1]), peak_memory(), time.perf_counter()
exec(sys.argv[2])
seconds = time.perf_counter() - start
private = psutil.Process().memory_full_info().uss
print(json.dumps({"seconds": seconds, "peak_bytes": peak_memory(), "private_bytes": private, "import_bytes": before}))
"""


def write(folder: Path, utterances: int) -> None:
    """Write a manifest, transcripts and labels."""
    with (
        (folder / "train.tsv").open("w") as manifest,
        (folder / "train.wrd").open("w") as words,
        (folder / "train.ltr").open("w") as labels,
    ):
        manifest.write("/archive/audio\n")
        for index in range(utterances):
            manifest.write(
                f"speaker{index % 9973:05}/book{index % 101:03}/utterance-{index:09}.flac\t{160_000 + index % 9000}\n"
            )
            words.write("THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG\n")
            labels.write("T H E | Q U I C K | B R O W N |\n")


def main() -> None:
    """Run the benchmark, print a table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utterances", type=int, default=20_000_000, help="number of utterances")
    parser.add_argument("--json", type=Path, help="write the results to this JSON file")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        write(Path(name), arguments.utterances)
        for reader, program in READERS.items():
            command = [sys.executable, "-c", PROGRAM, name, program]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            rows.append({"reader": reader, **json.loads(done.stdout.splitlines()[-1])})
    cells = [
        [
            row["reader"],
            f"{row['seconds']:.0f}",
            f"{row['private_bytes'] / 2**30:.2f}",
            f"{row['peak_bytes'] / 2**30:.2f}",
        ]
        for row in rows
    ]
    print_table(f"{arguments.utterances} utterances", ["reader", "seconds", "private GiB", "peak GiB"], cells)
    if arguments.json:
        report = {"command": "python benchmarks/manifests.py", "utterances": arguments.utterances}
        write_json(arguments.json, report | {"machine": describe_machine(), "rows": rows})


if __name__ == "__main__":
    main()
