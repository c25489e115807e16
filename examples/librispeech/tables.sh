#!/usr/bin/env bash
# The tables of OUT/sweeps, as Markdown, into OUT/tables.md.
#
#   examples/librispeech/tables.sh        one GPU, one node, many nodes: no GPU is needed

source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

need "$OUT/sweeps" "run sweep.sh first"
run python examples/librispeech/tables.py "$OUT/sweeps" "$OUT/tables.md"
