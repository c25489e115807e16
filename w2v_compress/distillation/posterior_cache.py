"""Cache the logits of a teacher on disk."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..files import replacing


class PosteriorCache:
    """On-disk cache of a teacher's logits, one file per utterance, for training without augmentation.

    The file name is the hash of the samples, and the folder name is the hash of the teacher's file, so another
    teacher and cropped or augmented audio have their own entries. Several processes may share a folder. Logits are
    stored as fp16 (frames, units): 2 x 50 x 32 bytes for each second of audio with 32 units.
    """

    def __init__(self, folder: Path, teacher: Path) -> None:
        with open(teacher, "rb") as file:
            self.folder = folder / hashlib.file_digest(file, "sha256").hexdigest()[:16]

    def path(self, samples: Tensor, dtype: torch.dtype) -> Path:
        """Return the path of the logits of `samples` (time,) from a teacher that computes in `dtype`."""
        content = samples.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
        key = hashlib.sha256(content).hexdigest()
        return self.folder / str(dtype).removeprefix("torch.") / key[:2] / f"{key}.npy"

    def read(self, path: Path) -> Tensor | None:
        """Read logits (frames, units) as fp32, or return None if there are none.

        Raises `InputError` for a damaged file.
        """
        try:
            return torch.from_numpy(np.load(path, allow_pickle=False)).float()
        except FileNotFoundError:
            return None
        except (ValueError, EOFError, OSError) as error:
            raise InputError(f"{path}: cannot be read from the teacher's cache ({error}); remove it") from None

    def write(self, path: Path, logits: Tensor) -> None:
        """Write logits (frames, units), clamped to the range of fp16. Raises `InputError` if that fails."""
        largest = torch.finfo(torch.float16).max
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, open(temporary, "wb") as file:
            np.save(file, logits.clamp(-largest, largest).half().cpu().numpy())
