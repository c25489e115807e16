#!/usr/bin/env bash
# Write the tables of OUT/sweeps to OUT/tables.md as Markdown.
#
#   examples/librispeech/tables.sh        one GPU, one node or many nodes: no GPU is needed

source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

require "$OUT/sweeps" "run sweep.sh first"
run python examples/librispeech/tables.py "$OUT/sweeps" "$OUT/tables.md"
