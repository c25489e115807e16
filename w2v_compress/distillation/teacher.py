"""The frozen recognizer that a student learns from, and what it said before, kept on disk."""

import hashlib
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..files import replacing
from ..interop.fairseq_checkpoint import read_recognizer
from ..nn import AcousticModel
from ..nn.acoustic_model import AcousticOutput
from ..nn.device import half_precision
from ..nn.lengths import valid_lengths, valid_mask

logger = logging.getLogger(__name__)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PRECISIONS = ("auto", *DTYPES)


class Teacher:
    """A fine-tuned CTC recognizer in eval mode and without gradients, at its own compression point.

    Not a `torch.nn.Module`: what holds it neither saves it in checkpoints, nor moves it, nor wraps it for
    distributed training. Each process has its own copy and nothing is exchanged between them.
    """

    def __init__(self, path: Path, *, precision: str = "auto", cache: Path | None = None) -> None:
        """`path`: a fairseq CTC checkpoint or a model file of ours. `cache`: folder for `PosteriorCache`.

        Raises `InputError` when the file is not a floating-point CTC recognizer or the precision is unknown.
        """
        if precision not in PRECISIONS:
            raise InputError(f"criterion.teacher_precision is {precision!r}; it must be one of {', '.join(PRECISIONS)}")
        self.path = path
        self.precision = precision
        model = read_recognizer(path)
        self.header = model.header
        self.network: AcousticModel = model.build()
        self.cache = None if cache is None else PosteriorCache(cache, path)
        self._said_precision = False

    def run(self, source: Tensor, padding_mask: Tensor | None, *, keep_hidden: bool = False) -> AcousticOutput:
        """(batch, samples) and fairseq's padding mask -> what the network gives, fit for autograd to keep."""
        output = self._run(source, padding_mask, keep_hidden)
        # Made in inference mode they are no ordinary tensors; copies made outside are.
        hidden = [state.clone() for state in output.hidden]
        return replace(output, logits=output.logits.clone(), hidden=hidden)

    @torch.inference_mode()
    def _run(self, source: Tensor, padding_mask: Tensor | None, keep_hidden: bool) -> AcousticOutput:
        dtype = self._dtype(source)
        parameter = self.network.proj.weight
        if parameter.dtype != dtype or parameter.device != source.device:
            self.network.to(source.device, dtype)
        if not self._said_precision:
            self._said_precision = True
            names = {kind: name for name, kind in DTYPES.items()}
            logger.info("%s: the teacher computes in %s on %s", self.path, names.get(dtype, dtype), source.device)
        with torch.autocast(source.device.type, enabled=False):
            lengths, point = valid_lengths(padding_mask), self.header.point
            return self.network.run(source.to(dtype), lengths, point=point, keep_hidden=keep_hidden)

    def logits(self, source: Tensor, padding_mask: Tensor | None) -> Tensor:
        """(batch, samples) -> (batch, frames, units); from the cache, where there is one and it knows every row.

        From the cache, the logits of padded frames are 0.
        """
        if self.cache is None:
            return self.run(source, padding_mask).logits
        lengths = valid_lengths(padding_mask)
        counts = [source.shape[1]] * len(source) if lengths is None else lengths.tolist()
        names = [self.cache.name(row[:count], self._dtype(source)) for row, count in zip(source, counts, strict=True)]
        known = [self.cache.read(name) for name in names]
        if any(logits is None for logits in known):
            output = self.run(source, padding_mask)
            frames = [output.logits.shape[1]] * len(source)
            if output.frame_lengths is not None:
                frames = output.frame_lengths.tolist()
                valid = valid_mask(output.frame_lengths, output.logits.shape[1])
                output.logits.masked_fill_(~valid.unsqueeze(-1), 0)
            for name, logits, count in zip(names, output.logits, frames, strict=True):
                self.cache.write(name, logits[:count])
            return output.logits
        rows = [logits for logits in known if logits is not None]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(source.device)

    def _dtype(self, source: Tensor) -> torch.dtype:
        """The precision to compute in: by default that of the training run when it is a half precision itself, on a GPU
        the one that it has units for, and on a CPU fp32, so that all CPUs give the same results.
        """
        if self.precision != "auto":
            return DTYPES[self.precision]
        if source.dtype != torch.float32 or source.device.type == "cpu":
            return source.dtype
        return half_precision(source.device)


class PosteriorCache:
    """A teacher's logits on disk, one file an utterance, for runs that hear the same audio epoch after epoch.

    The name of an utterance is the hash of its samples, and the folder that of the teacher's file: another teacher, or
    audio that was cropped or augmented, is never mistaken for what was kept. Processes may share a folder: files
    are written beside and renamed. Kept as fp16, (frames, units): 2 * 50 * 32 bytes a second with 32 letters.
    """

    def __init__(self, folder: Path, teacher: Path) -> None:
        with open(teacher, "rb") as file:
            self.folder = folder / hashlib.file_digest(file, "sha256").hexdigest()[:16]

    def name(self, samples: Tensor, dtype: torch.dtype) -> Path:
        """Where the logits that a teacher of precision `dtype` gives for `samples` (time,) are kept."""
        content = samples.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
        key = hashlib.sha256(content).hexdigest()
        return self.folder / str(dtype).removeprefix("torch.") / key[:2] / f"{key}.npy"

    def read(self, name: Path) -> Tensor | None:
        """The logits (frames, units) as fp32; None when they are not there. `InputError` for a damaged file."""
        try:
            return torch.from_numpy(np.load(name, allow_pickle=False)).float()
        except FileNotFoundError:
            return None
        except (ValueError, EOFError, OSError) as error:
            raise InputError(f"{name}: cannot be read from the teacher's cache ({error}); remove it") from None

    def write(self, name: Path, logits: Tensor) -> None:
        """Keep the logits (frames, units). `InputError` names the file when the disk is full."""
        largest = torch.finfo(torch.float16).max
        name.parent.mkdir(parents=True, exist_ok=True)
        with replacing(name) as temporary, open(temporary, "wb") as file:
            np.save(file, logits.clamp(-largest, largest).half().cpu().numpy())
