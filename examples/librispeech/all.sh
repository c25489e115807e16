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
# The baselines are the stochastic model at one point each, so that they differ in nothing else. SEW has another feature
# extractor, other heads and another upsampling, so it is a row of its own. 100,000 updates each.
fixed=()
for squeeze in 1 2 3 4; do
  fixed+=("pinned_s$squeeze")
  NAME=pinned_s$squeeze "$here/pretrain.sh" stochastic_base_librispeech "task.point='$squeeze,1,1'" task.valid_points=[]
done
"$here/pretrain.sh" stochastic_base_librispeech
"$here/pretrain.sh" sew_small_librispeech

export NODES=1
[ "$GPUS" -le 8 ] || export GPUS=8
for squeeze in 1 2 3 4; do
  "$here/finetune.sh" "pinned_s$squeeze" base_10h "pinned_s$squeeze" "model.point='$squeeze,1,1'"
done
"$here/finetune.sh" sew_small sew_10h sew_small_librispeech
"$here/finetune.sh" elastic elastic_10h stochastic_base_librispeech
for squeeze in 2 4; do
  "$here/finetune.sh" "stochastic_to_s$squeeze" base_10h stochastic_base_librispeech "model.point='$squeeze,1,1'"
done
"$here/finetune.sh" retrofit elastic_retrofit_10h "$OUT/finetune/pinned_s1/checkpoint_best.pt"
"$here/distil.sh" elastic "$OUT/finetune/pinned_s1/checkpoint_best.pt" stochastic_base_librispeech

"$here/sweep.sh" "${fixed[@]}" sew_small elastic stochastic_to_s2 stochastic_to_s4 retrofit distilled
"$here/tables.sh"
