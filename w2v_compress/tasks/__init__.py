"""Register fairseq tasks. For its `common.user_dir`, fairseq imports this package before the models."""

from .. import compat

compat.apply()
compat.apply_to_training()

from . import compressed_finetuning, compressed_pretraining  # noqa: E402

__all__ = ["compressed_finetuning", "compressed_pretraining"]
