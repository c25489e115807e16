"""Calibrate a model for int8 with fixed activation scales: run it on speech, and record the ranges of activations."""

import warnings
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from ..data.audio import SAMPLE_RATE, AudioArray
from ..errors import InputError, prefixed
from ..model_file.storage import check_not_quantized
from ..model_file.tensor_file import read_header
from ..progress import Progress, no_progress
from ..quantization.calibration import Calibration
from ..quantization.parts import quantizable_parts
from ..runtime.engines.torch_engine import TorchEngine
from ..runtime.recognizer import Recognizer

MAX_UTTERANCES = 300
FEW_UTTERANCES = 100


def calibrate(
    path: Path,
    audio: Sequence[Path | AudioArray],
    scheme: str = "full",
    *,
    keep: Collection[str] = (),
    seed: int = 0,
    progress: Progress = no_progress,
) -> Calibration:
    """Run the model file `path` in fp32 at every compression point that it was trained for, and record the ranges.

    Args:
        path: A floating-point model file.
        audio: Utterances, as files or as samples at 16 kHz. At most `MAX_UTTERANCES` are used, drawn with `seed`; fewer
            than `FEW_UTTERANCES` give a warning.
        scheme: The parts to quantize, see `quantization.parts`.
        keep: Parts of the scheme that stay in floating point, which need no range.
        seed: Random seed for drawing utterances.
        progress: Counts utterances at each point.

    Raises:
        InputError: The model is int8 already, an utterance cannot be read, or no point uses a part of the scheme.
    """
    if not audio:
        raise InputError("there are no utterances to calibrate on")
    if len(audio) < FEW_UTTERANCES:
        warnings.warn(f"only {len(audio)} utterances to calibrate on; {FEW_UTTERANCES} are better", stacklevel=2)
    header = read_header(path)
    with prefixed(path):
        check_not_quantized(header)
        parts = quantizable_parts(header.architecture, scheme, calibrated=True)
    engine = TorchEngine.load(path, "fp32")
    recognizer = Recognizer(engine, header)
    modules = [name for names in parts.values() for name in names]
    drawn = np.random.default_rng(seed).permutation(len(audio))[:MAX_UTTERANCES]
    points = header.space.all_points()
    calibration = Calibration()
    seconds, done = 0.0, 0
    rate = None if isinstance(audio[0], Path) else SAMPLE_RATE
    with calibration.observe(engine.model, modules):
        for point in points:
            # Padded frames of a batch would count too.
            for result in recognizer.recognize([audio[index] for index in drawn], rate, batch_size=1, point=point):
                if isinstance(result, InputError):
                    raise result
                seconds += result.audio_seconds / len(points)
                done += 1
                progress(done, len(points) * len(drawn))
    for part, names in parts.items():
        if part not in keep and not calibration.covers(names):
            raise InputError(
                f"{path}: none of its compression points uses the part {part}; leave it out with --keep {part}"
            )
    calibration.source = {"utterances": len(drawn), "seconds": round(seconds, 1), "points": list(map(str, points))}
    return calibration
