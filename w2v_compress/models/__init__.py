"""fairseq models, and all that comes with them when fairseq imports this package as its `common.user_dir`.

fairseq imports the modules of `tasks/` and `models/` there, and none of `criterions/`: that is done here.
"""

from .. import compat

compat.apply()

from .. import criterions  # noqa: E402
from . import compressed_ctc, pooled_transformer, sew, stochastic_sew, student_ctc  # noqa: E402

__all__ = ["compressed_ctc", "criterions", "pooled_transformer", "sew", "stochastic_sew", "student_ctc"]
