"""The command line `w2v-compress`. One module per verb, which imports what it needs when it runs: --help is fast."""

from .app import main

__all__ = ["main"]
