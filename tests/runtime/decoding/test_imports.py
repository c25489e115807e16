"""Decoding needs numpy, not torch, whose import takes seconds."""

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

from w2v_compress.runtime import decoding

SCRIPTS = {"kenlm_probe"}
"""Modules that only run as a process of their own, and need the extra `[lm]`."""


def imports_torch(program: str) -> bool:
    """Whether torch is loaded at the end of a program, run in a process of its own."""
    program += "\nimport sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1] == "True"


def test_no_module_imports_torch() -> None:
    names = [module.name for module in pkgutil.iter_modules(decoding.__path__) if module.name not in SCRIPTS]
    assert {"beam_search", "greedy", "words"} <= set(names)
    assert not imports_torch(f"from w2v_compress.runtime.decoding import {', '.join(names)}")


def test_greedy_decoding_imports_no_torch() -> None:
    assert not imports_torch("""
import numpy as np
from w2v_compress.data.units import Units
from w2v_compress.runtime.decoding import GreedyDecoder
GreedyDecoder(Units.letters(), 0.02)(np.zeros((9, 32), np.float32))
""")


def test_beam_search_with_a_language_model_imports_no_torch(arpa: Path) -> None:
    pytest.importorskip("flashlight.lib.text.decoder")
    assert not imports_torch(f"""
import numpy as np
from w2v_compress.data.units import Units
from w2v_compress.runtime.decoding.beam_search import BeamSearchDecoder
BeamSearchDecoder(Units.letters(), 0.02, lm={str(arpa)!r})(np.zeros((9, 32), np.float32))
""")
