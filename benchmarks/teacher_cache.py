"""Time of a distillation update with the teacher in fp32, in bf16, and from the cache.

    python benchmarks/teacher_cache.py --json benchmarks/results/teacher_cache.json

Distils LARGE (24 layers, random weights) into its 12-layer student on one utterance of 10 s of noise. An update is the
forward pass, loss and backward pass of the criterion, as fairseq runs it, without the optimizer. The runs are
interleaved. Prints a table, and writes the milliseconds with --json.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from fairseq.data import Dictionary
from omegaconf import OmegaConf

import w2v_compress.models  # noqa: F401  (patches fairseq and registers our models)
from w2v_compress.cli.console import print_table
from w2v_compress.criterions.ctc_distillation import CtcDistillation, CtcDistillationConfig
from w2v_compress.data.audio import SAMPLE_RATE
from w2v_compress.data.units import Units
from w2v_compress.evaluation.machine import describe_machine, interleaved_latency
from w2v_compress.files import write_json
from w2v_compress.interop.fairseq_checkpoint import export_random
from w2v_compress.models.student_ctc import StudentCtc, StudentCtcConfig

SEED = 1


def stub_task(normalize: bool) -> Any:
    """Return the attributes of a fairseq task that the model and the criterion use."""
    dictionary = Dictionary()
    for symbol in Units.letters().symbols[4:]:
        dictionary.add_symbol(symbol)
    return SimpleNamespace(target_dictionary=dictionary, blank_symbol="<s>", cfg=SimpleNamespace(normalize=normalize))


def noise_batch(seconds: float) -> dict[str, Any]:
    """Return a batch of one utterance of noise with a transcript of 20 units, in fairseq's format."""
    source = torch.randn(1, round(seconds * SAMPLE_RATE))
    return {
        "id": torch.zeros(1),
        "net_input": {"source": source, "padding_mask": torch.zeros(source.shape, dtype=torch.bool)},
        "target": torch.randint(4, 32, (1, 20)),
        "target_lengths": torch.tensor([20]),
        "ntokens": 20,
    }


def main() -> None:
    """Run the benchmark, print a table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="large", help="architecture of the teacher")
    parser.add_argument("--student-layers", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.manual_seed(SEED)
    batch = noise_batch(args.seconds)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "teacher.safetensors")
        normalize = export_random(args.teacher, path, SEED).header.normalize
        task = stub_task(normalize)
        settings = {"init_checkpoint": str(path), "encoder_layers": args.student_layers}
        settings |= {"normalize": normalize, "data": ""}  # fairseq would take them from the task
        cfg = OmegaConf.merge(OmegaConf.structured(StudentCtcConfig), settings)
        student = StudentCtc.build_model(cfg, task).train()
        variants = {
            "without a teacher": {"kl_weight": 0.0, "ctc_weight": 1.0},
            "teacher in fp32": {"teacher_precision": "fp32"},
            "teacher in bf16": {"teacher_precision": "bf16"},
            "from the cache": {"teacher_cache": str(Path(folder, "cache"))},
        }

        def update(criterion: CtcDistillation) -> Callable[[], None]:
            def run() -> None:
                criterion(student, batch)[0].backward()
                student.zero_grad()

            return run

        runs, precisions = {}, {}
        for name, choice in variants.items():
            chosen = CtcDistillationConfig(
                teacher_checkpoint=str(path), zero_infinity=True, sentence_avg=False, **choice
            )
            criterion = CtcDistillation(chosen, task)
            runs[name] = update(criterion)
            runs[name]()
            if criterion.teacher is not None:
                precisions[name] = str(criterion.teacher.network.proj.weight.dtype).removeprefix("torch.")
        milliseconds = interleaved_latency(runs, args.repeats)
    baseline = milliseconds["teacher in fp32"]
    print_table(
        f"Update: {args.teacher} to {args.student_layers} layers, {args.seconds:g} s of audio",
        ["teacher", "ms", "relative to fp32"],
        [[name, f"{value:.0f}", f"{value / baseline:.2f}"] for name, value in milliseconds.items()],
    )
    if args.json:
        figures = {"milliseconds": milliseconds, "teacher_precision": precisions, "repeats": args.repeats}
        settings = {"teacher": args.teacher, "student_layers": args.student_layers, "seconds": args.seconds}
        command = "python benchmarks/teacher_cache.py"
        write_json(args.json, {"command": command, "seed": SEED, **settings, **figures, "machine": describe_machine()})


if __name__ == "__main__":
    main()
