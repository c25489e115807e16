"""Run the command line with `python -m w2v_compress`."""

from .cli import main

main()
