#!/usr/bin/env bash
# Measure fine-tuned models at all their compression points on dev-other, test-clean and test-other: WER with intervals,
# time and multiply-accumulates. Results go to OUT/sweeps; the sweep on dev-other is stored in the model (--budget-rtf).
#
#   DEVICE=cuda examples/librispeech/sweep.sh               one GPU: all models of OUT/finetune
#   DEVICE=cuda examples/librispeech/sweep.sh elastic       one node: models by name; run nothing else meanwhile
#   srun -p gpu --gpus 1 env DEVICE=cuda examples/librispeech/sweep.sh elastic      many nodes: one job per model
#
# DEVICE is cpu by default; THREADS is the number of CPU threads, by default that of the available cores.

source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

DEVICE=${DEVICE:-cpu}
names=("$@")
if [ $# = 0 ]; then
  shopt -s nullglob
  for model in "$OUT"/finetune/*/model.safetensors; do names+=("$(basename "$(dirname "$model")")"); done
  [ "${#names[@]}" -gt 0 ] || die "$OUT/finetune contains no model.safetensors; run finetune.sh first"
fi
run mkdir -p "$OUT/sweeps"
for name in "${names[@]}"; do
  model=$OUT/finetune/$name/model.safetensors
  require "$model" "run finetune.sh first"
  for subset in dev-other test-clean test-other; do
    result=$OUT/sweeps/$name-$subset.json
    [ ! -e "$result" ] || continue
    options=(--subset "$subset" --device "$DEVICE" --json "$result" --plot "$OUT/sweeps/$name-$subset.png")
    [ -z "${THREADS:-}" ] || options+=(--threads "$THREADS")
    [ "$subset" != dev-other ] || options+=(--save)
    run w2v-compress sweep "$model" "$data" "${options[@]}"
  done
done
