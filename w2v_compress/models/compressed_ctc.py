"""`compressed_ctc`: fine-tune any wav2vec 2.0 with CTC, at one compression point or elastic.

The initial checkpoint is stock `wav2vec2`, a pre-training model of this package, or a fine-tuned recognizer, so an
existing model can become elastic without further pre-training.
"""

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path

from fairseq.models import register_model
from fairseq.tasks import FairseqTask
from omegaconf import MISSING

from ..errors import InputError
from ..interop.fairseq_checkpoint import read_initial
from ..nn.acoustic_model import AcousticModel
from ..nn.compression import CompressionPoint
from ..nn.options import TrainingOptions
from .ctc import CtcConfig, CtcModel, check_normalization, elastic_fields

logger = logging.getLogger(__name__)
HEAD = ("proj.weight", "proj.bias")
UPSAMPLING = "w2v_model.encoder.upsampling."


@dataclass
class CompressedCtcConfig(CtcConfig):
    """Settings of `compressed_ctc`."""

    w2v_path: str = field(
        default=MISSING,
        metadata={
            "help": "path of the initial checkpoint (.pt), pre-trained or fine-tuned, or model file (.safetensors)"
        },
    )
    feature_grad_mult: float = field(
        default=0.0, metadata={"help": "factor on the gradient of the feature extractor, 0 or above; 0 freezes it"}
    )


@register_model("compressed_ctc", dataclass=CompressedCtcConfig)
class CompressedCtc(CtcModel):
    """CTC model that is initialized from a network of the same shape."""

    @classmethod
    def initial_network(
        cls, cfg: CompressedCtcConfig, task: FairseqTask, options: TrainingOptions
    ) -> tuple[AcousticModel, CompressionPoint]:
        """Return the network at `w2v_path` and its point; the CTC head is new unless it has the task's units.

        Raises `InputError` if the file cannot be read, or if its normalization differs from the task's.
        """
        if not cfg.w2v_path:
            raise InputError("model.w2v_path is empty; it must name a checkpoint to fine-tune")
        initial = read_initial(Path(cfg.w2v_path))
        header = initial.model.header
        check_normalization(header, task, cfg.w2v_path)
        symbols = tuple(task.target_dictionary.symbols)
        architecture = replace(header.architecture, num_units=len(symbols), **elastic_fields(cfg, header))
        network = AcousticModel(architecture, options=options)
        own = network.state_dict()
        state = {name: tensor for name, tensor in own.items() if name.startswith(UPSAMPLING)} | initial.model.state
        if not (initial.fine_tuned and header.units.symbols == symbols):
            reason = "it has other units" if initial.fine_tuned else "it was not fine-tuned"
            logger.info("%s: a new CTC head, since %s", cfg.w2v_path, reason)
            state |= {name: own[name] for name in HEAD}
        network.load_state_dict(state)
        return network, header.point
