"""Make the shipped teacher of a training checkpoint: a stock `wav2vec_ctc` checkpoint, fp16, without optimizer state.

    python ship_teacher.py CHECKPOINT.pt TEACHER.pt

Training names the model `student_ctc`, whose network is faster on a CPU; tensors and configuration are those of
fairseq's own `wav2vec_ctc`, and under that name any fairseq reads the result.
"""

import argparse
import sys
from pathlib import Path

import torch
from omegaconf import OmegaConf

from w2v_compress.compat import load_checkpoint
from w2v_compress.errors import InputError
from w2v_compress.files import replacing

OF_THE_MODEL = ("w2v_args", "normalize")


def ship(checkpoint: Path, out: Path) -> None:
    state = load_checkpoint(checkpoint)
    cfg = OmegaConf.to_container(OmegaConf.create(state["cfg"]))
    model = {name: cfg["model"][name] for name in OF_THE_MODEL}
    task = {name: cfg["task"][name] for name in ("_name", "labels", "normalize", "sample_rate")}
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
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    try:
        ship(args.checkpoint, args.out)
    except InputError as error:
        sys.exit(f"ship_teacher: {error}")


if __name__ == "__main__":
    main()
