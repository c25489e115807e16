"""Convert a training checkpoint to the shipped teacher: a stock fp16 `wav2vec_ctc` checkpoint without optimizer state.

    python ship_teacher.py CHECKPOINT.pt TEACHER.pt

Training uses the model `student_ctc`, whose network is faster on a CPU, and the task `compressed_finetuning` at the
point 1,1,1. Tensors and configuration are those of fairseq's `wav2vec_ctc` and `audio_finetuning`, so that under these
names stock fairseq can load the result.
"""

import argparse
import sys
from pathlib import Path

import torch
from omegaconf import OmegaConf

from w2v_compress.compat import load_checkpoint
from w2v_compress.files import replacing

sys.path.append(str(Path(__file__).resolve().parents[2]))

from common import one_line_errors

MODEL_FIELDS = ("w2v_args", "normalize")
TASK_FIELDS = ("labels", "normalize", "sample_rate")


def ship(checkpoint: Path, out: Path) -> None:
    """Write the teacher of `checkpoint` to `out`."""
    state = load_checkpoint(checkpoint)
    cfg = OmegaConf.to_container(OmegaConf.create(state["cfg"]))
    model = {name: cfg["model"][name] for name in MODEL_FIELDS}
    task = {"_name": "audio_finetuning"} | {name: cfg["task"][name] for name in TASK_FIELDS}
    shipped = {
        "args": None,
        "cfg": {"model": {"_name": "wav2vec_ctc", **model}, "task": task},
        "model": {name: tensor.half() for name, tensor in state["model"].items()},
        "task_state": {"target_dictionary": state["task_state"]["target_dictionary"]},
        "extra_state": None,
        "optimizer_history": [],
    }
    with replacing(out) as temporary:
        torch.save(shipped, temporary)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="a checkpoint of train_teacher.sh")
    parser.add_argument("out", type=Path, help="path of the teacher to write")
    args = parser.parse_args()
    with one_line_errors():
        ship(args.checkpoint, args.out)


if __name__ == "__main__":
    main()
