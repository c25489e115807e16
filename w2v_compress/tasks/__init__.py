"""fairseq tasks, which fairseq imports with this package as its `common.user_dir`, before the models."""

from .. import compat

compat.apply()

from . import compressed_finetuning, compressed_pretraining  # noqa: E402

__all__ = ["compressed_finetuning", "compressed_pretraining"]
