"""Register fairseq models, criterions and optimizers.

For its `common.user_dir`, fairseq imports the modules in `tasks/` and `models/`, but not those in `criterions/` and
`optim/`, so this package imports them.
"""

from .. import compat

compat.apply()

from .. import criterions, optim  # noqa: E402
from . import compressed_ctc, pooled_transformer, sew, stochastic_sew, student_ctc  # noqa: E402

__all__ = ["compressed_ctc", "criterions", "optim", "pooled_transformer", "sew", "stochastic_sew", "student_ctc"]
