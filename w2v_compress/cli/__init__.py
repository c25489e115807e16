"""The command line `w2v-compress`: one module a verb, which imports what it needs when it runs, so --help is fast."""

from .app import main

__all__ = ["main"]
