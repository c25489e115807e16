"""Frozen teacher with an optional on-disk cache of its logits."""

import logging
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError
from ..interop.fairseq_checkpoint import read_recognizer
from ..nn.acoustic_model import AcousticModel, AcousticOutput
from ..nn.device import half_precision
from ..nn.lengths import valid_lengths, valid_mask
from .posterior_cache import PosteriorCache

logger = logging.getLogger(__name__)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PRECISIONS = ("auto", *DTYPES)


class Teacher:
    """A fine-tuned CTC recognizer in eval mode, without gradients, at its own compression point.

    It is not a `torch.nn.Module`, so a criterion that has it neither saves it in checkpoints nor wraps it for
    distributed training. Each process has its own copy.
    """

    def __init__(self, path: Path, *, precision: str = "auto", cache: Path | None = None) -> None:
        """Load the teacher.

        Args:
            path: A fairseq CTC checkpoint or a model file (.safetensors).
            precision: One of `PRECISIONS`; `auto` is explained at `_dtype`.
            cache: Folder for a `PosteriorCache`; None disables the cache.

        Raises:
            InputError: The file is not a floating-point CTC recognizer, or the precision is unknown.
        """
        if precision not in PRECISIONS:
            raise InputError(f"criterion.teacher_precision is {precision!r}; it must be one of {', '.join(PRECISIONS)}")
        self.path = path
        self.precision = precision
        model = read_recognizer(path)
        self.header = model.header
        self.network: AcousticModel = model.build()
        self.cache = None if cache is None else PosteriorCache(cache, path)
        self._precision_logged = False
        self._last: tuple[Tensor, Tensor] | None = None  # source and logits of the last batch

    def run(self, source: Tensor, padding_mask: Tensor | None, *, return_hidden: bool = False) -> AcousticOutput:
        """Run the network on `source` (batch, samples) with fairseq's padding mask.

        The output can be saved for the backward pass of a student.
        """
        output = self._run(source, padding_mask, return_hidden)
        # Autograd rejects tensors from inference mode; copies made outside of it are ordinary tensors.
        hidden = [state.clone() for state in output.hidden]
        return replace(output, logits=output.logits.clone(), hidden=hidden)

    @torch.inference_mode()
    def _run(self, source: Tensor, padding_mask: Tensor | None, return_hidden: bool) -> AcousticOutput:
        dtype = self._dtype(source)
        parameter = self.network.proj.weight
        if parameter.dtype != dtype or parameter.device != source.device:
            self.network.to(source.device, dtype)
        if not self._precision_logged:
            self._precision_logged = True
            names = {kind: name for name, kind in DTYPES.items()}
            logger.info("%s: the teacher computes in %s on %s", self.path, names.get(dtype, dtype), source.device)
        with torch.autocast(source.device.type, enabled=False):
            lengths, point = valid_lengths(padding_mask), self.header.point
            return self.network.run(source.to(dtype), lengths, point=point, return_hidden=return_hidden)

    def logits(self, source: Tensor, padding_mask: Tensor | None) -> Tensor:
        """Return logits (batch, frames, units) for `source` (batch, samples), from the cache if it has every row.

        With a cache, the logits of padded frames are 0. Those of the last batch are kept, for students that are trained
        at several compression points in each update.
        """
        if self._last is None or self._last[0] is not source:
            self._last = source, self._logits(source, padding_mask)
        return self._last[1]

    def _logits(self, source: Tensor, padding_mask: Tensor | None) -> Tensor:
        if self.cache is None:
            return self.run(source, padding_mask).logits
        lengths = valid_lengths(padding_mask)
        counts = [source.shape[1]] * len(source) if lengths is None else lengths.tolist()
        paths = [self.cache.path(row[:count], self._dtype(source)) for row, count in zip(source, counts, strict=True)]
        cached = [self.cache.read(path) for path in paths]
        if any(logits is None for logits in cached):
            output = self.run(source, padding_mask)
            frames = [output.logits.shape[1]] * len(source)
            if output.frame_lengths is not None:
                frames = output.frame_lengths.tolist()
                valid = valid_mask(output.frame_lengths, output.logits.shape[1])
                output.logits.masked_fill_(~valid.unsqueeze(-1), 0)
            for path, logits, count in zip(paths, output.logits, frames, strict=True):
                self.cache.write(path, logits[:count])
            return output.logits
        rows = [logits for logits in cached if logits is not None]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(source.device)

    def _dtype(self, source: Tensor) -> torch.dtype:
        """Return the dtype to compute in.

        `auto` is the dtype of `source` if that is a half precision. Otherwise it is the fastest one on a GPU, and fp32
        on a CPU, so that results are the same on all CPUs.
        """
        if self.precision != "auto":
            return DTYPES[self.precision]
        if source.dtype != torch.float32 or source.device.type == "cpu":
            return source.dtype
        return half_precision(source.device)
