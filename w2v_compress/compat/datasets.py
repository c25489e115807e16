"""Make fairseq's tasks load datasets of other classes."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock


@contextlib.contextmanager
def loading_datasets(audio: Callable[..., Any], targets: Callable[..., Any]) -> Iterator[None]:
    """Replace `FileAudioDataset` by `audio` and `AddTargetDataset` by `targets` in fairseq's tasks in this context."""
    from fairseq.tasks import audio_finetuning, audio_pretraining

    with (
        mock.patch.object(audio_pretraining, "FileAudioDataset", audio),
        mock.patch.object(audio_finetuning, "AddTargetDataset", targets),
    ):
        yield
