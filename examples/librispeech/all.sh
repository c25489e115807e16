#!/usr/bin/env bash
# Run the complete recipe for the claims of Vyas et al. 2022, from download to tables. Finished steps are skipped.
#
#   examples/librispeech/all.sh                                 one GPU: weeks
#   GPUS=8 examples/librispeech/all.sh                          one node of 8
#   GPUS=8 NODES=8 PARTITION=gpu examples/librispeech/all.sh    8 nodes for pre-training, one for the rest, slurm
#   DRY_RUN=1 examples/librispeech/all.sh                       print the commands only

source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
export OUT GPUS NODES PARTITION MASTER DRY_RUN

[ -z "$MASTER" ] || die "fine-tuning is for one node; with MASTER, run pretrain.sh on each node, then the others on one"
"$here/prepare.sh"
fixed=(wav2vec2_base sew_small)
for name in "${fixed[@]}" stochastic_base; do
  # 100,000 updates each for a fair comparison; the recipe of wav2vec 2.0 base has 400,000.
  "$here/pretrain.sh" "${name}_librispeech" optimization.max_update=100000
done

export NODES=1
[ "$GPUS" -le 8 ] || export GPUS=8
for name in "${fixed[@]}"; do "$here/finetune.sh" "$name" base_10h "${name}_librispeech"; done
"$here/finetune.sh" elastic elastic_10h stochastic_base_librispeech
for squeeze in 2 4; do
  "$here/finetune.sh" "stochastic_to_s$squeeze" base_10h stochastic_base_librispeech "model.point='$squeeze,1,1'"
done
"$here/finetune.sh" retrofit elastic_retrofit_10h "$OUT/finetune/wav2vec2_base/checkpoint_best.pt"
"$here/distil.sh" elastic "$OUT/finetune/wav2vec2_base/checkpoint_best.pt" stochastic_base_librispeech

"$here/sweep.sh" "${fixed[@]}" elastic stochastic_to_s2 stochastic_to_s4 retrofit distilled
"$here/tables.sh"
