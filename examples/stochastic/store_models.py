"""Write some models of digits.py with 16-bit weights, for the repository.

    python examples/stochastic/store_models.py DIGITS_OUT    # an output folder of digits.py

Writes DIGITS_OUT/stored/*.safetensors. They are kept in results/digits beside this file, where `make results-check
FSDD=FOLDER` finds them, and recomputes their error rates.
"""

import dataclasses
import sys
from pathlib import Path

from w2v_compress.evaluation.report import read_report
from w2v_compress.model_file.storage import read_model, write_model

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE.parent), str(HERE)]

from common import run_in_folder  # noqa: E402
from digits import EXPERIMENT, FULL, OVER_ALL, OVER_S, TWICE, pinned  # noqa: E402
from experiment import Arm, Run  # noqa: E402

STORED = HERE / "results" / "digits"
"""Where the repository has them."""
ARMS = (Arm(pinned("1,1,1"), FULL), Arm(pinned("4,1,1"), FULL), Arm(OVER_S, FULL), Arm(OVER_ALL, TWICE))
"""The arms whose models of the first seed are stored."""


def store(out: Path) -> None:
    """Write the models of a finished run in `out`."""
    results = read_report(out / "results.json", ("seeds",), "the results of digits.py")
    seed = results["seeds"][0]
    for arm in ARMS:
        path = Run(EXPERIMENT, out, ()).model(arm.name, seed)
        model = read_model(path)
        halved = {name: each.half() if each.is_floating_point() else each for name, each in model.state.items()}
        (out / "stored").mkdir(exist_ok=True)
        write_model(out / "stored" / path.name, dataclasses.replace(model, state=halved))
        print(out / "stored" / path.name)


if __name__ == "__main__":
    run_in_folder(__doc__, store)
