"""`python -m w2v_compress`: the command line."""

from .cli import main

main()
