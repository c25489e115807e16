#!/usr/bin/env bash
# Distil into an elastic student, or along the chain of students of "Shrinking Bigfoot" (Peng et al. 2021).
#
#   examples/librispeech/distil.sh elastic wav2vec_small_960h.pt stochastic_base_librispeech           one GPU
#   GPUS=8 examples/librispeech/distil.sh elastic wav2vec_small_960h.pt stochastic_base_librispeech    one node of 8
#   GPUS=4 NODES=2 PARTITION=gpu examples/librispeech/distil.sh elastic ...                            2 nodes, slurm
#   GPUS=4 examples/librispeech/distil.sh chain wav2vec_big_960h.pt                                    one node of 4
#
# elastic TEACHER SOURCE [OVERRIDE...]: train elastic_10h with the criterion ctc_distillation. TEACHER is a fine-tuned
# CTC model with the units and normalization of SOURCE. The weights of the loss terms are not from a paper.
# chain TEACHER [OVERRIDE...]: train students of 12 and 4 layers (docs/distillation.md); GPUS x NODES must divide 4.

source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage $# 2 "distil.sh elastic TEACHER SOURCE [OVERRIDE...], or distil.sh chain TEACHER [OVERRIDE...]"
kind=$1 teacher=$2
require "$teacher" "TEACHER must be a fine-tuned CTC checkpoint or a .safetensors file"
case $kind in
  elastic)
    usage $# 3 "distil.sh elastic TEACHER SOURCE [OVERRIDE...]"
    start=$(checkpoint_of "$3")
    shift 3
    require "$start" "SOURCE must be a checkpoint or a pre-training of pretrain.sh"
    train finetuning elastic_10h 8 "$OUT/finetune/distilled" "model.w2v_path='$start'" \
      criterion._name=ctc_distillation "+criterion.teacher_checkpoint='$teacher'" +criterion.kl_weight=1.0 \
      +criterion.ctc_weight=0.5 +criterion.features_penalty_weight=0.0 "$@"
    export_model "$OUT/finetune/distilled"
    ;;
  chain)
    shift 2
    from=$teacher
    for stage in large_960h_to_12l 12l_to_4l; do
      dir=$OUT/finetune/$stage
      train distillation "$stage" 4 "$dir" "model.init_checkpoint='$from'" "criterion.teacher_checkpoint='$teacher'" "$@"
      export_model "$dir"
      from=$dir/checkpoint_best.pt
    done
    ;;
  *) die "$kind is neither elastic nor chain" ;;
esac
