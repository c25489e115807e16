"""`compressed_ctc`: CTC fine-tuning of any wav2vec 2.0, at one compression point or elastic.

It starts from what stock `wav2vec2` or a pre-training model of ours learned, or from a recognizer that was fine-tuned
before: so an existing model becomes elastic without pre-training anew.
"""

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path

from fairseq.models import register_model
from fairseq.tasks import FairseqTask
from omegaconf import MISSING

from ..errors import InputError
from ..interop.fairseq_checkpoint import read_initial
from ..nn import AcousticModel, CompressionPoint, TrainingOptions
from .ctc import CtcConfig, CtcModel, check_normalize

logger = logging.getLogger(__name__)
HEAD = ("proj.weight", "proj.bias")
UPSAMPLING = "w2v_model.encoder.upsampling."


@dataclass
class CompressedCtcConfig(CtcConfig):
    w2v_path: str = field(
        default=MISSING,
        metadata={"help": "pre-trained checkpoint to fine-tune, or a fine-tuned one (or .safetensors) to go on from"},
    )
    learned_upsampling: list[int] = field(
        default_factory=list,
        metadata={
            "help": "squeeze factors to learn upsampling for, where the checkpoint has none; starts as repetition"
        },
    )
    feature_grad_mult: float = field(
        default=0.0, metadata={"help": "factor on the gradient of the feature extractor; 0 freezes it"}
    )


@register_model("compressed_ctc", dataclass=CompressedCtcConfig)
class CompressedCtc(CtcModel):
    """What `CtcModel` is, started from a network of the same shape."""

    @classmethod
    def initial_network(
        cls, cfg: CompressedCtcConfig, task: FairseqTask, options: TrainingOptions
    ) -> tuple[AcousticModel, CompressionPoint]:
        """The network at `w2v_path` with its CTC head, or a new one where it has none for the task's units.

        Raises `InputError` when it cannot be read, or was trained on audio that was normalized otherwise.
        """
        if not cfg.w2v_path:
            raise InputError("model.w2v_path is empty; it must name a checkpoint to fine-tune")
        initial = read_initial(Path(cfg.w2v_path))
        header = initial.model.header
        check_normalize(header, task, cfg.w2v_path)
        symbols = tuple(task.target_dictionary.symbols)
        architecture = replace(header.architecture, num_units=len(symbols))
        if cfg.learned_upsampling and not architecture.learned_upsampling:
            factors = tuple(cfg.learned_upsampling)
            architecture = replace(architecture, learned_upsampling=factors, upsampling_activation="none")
        network = AcousticModel(architecture, options=options)
        own = network.state_dict()
        state = {name: tensor for name, tensor in own.items() if name.startswith(UPSAMPLING)} | initial.model.state
        if not (initial.fine_tuned and header.units.symbols == symbols):
            reason = "it has other units" if initial.fine_tuned else "it was not fine-tuned"
            logger.info("%s: a new CTC head, since %s", cfg.w2v_path, reason)
            state |= {name: own[name] for name in HEAD}
        network.load_state_dict(state)
        return network, header.point
