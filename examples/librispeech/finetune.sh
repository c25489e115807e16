#!/usr/bin/env bash
# Fine-tune with CTC: a file of configs/finetuning from SOURCE into OUT/finetune/NAME, and its model.safetensors.
#
#   examples/librispeech/finetune.sh elastic elastic_10h stochastic_base_librispeech             one GPU
#   GPUS=8 examples/librispeech/finetune.sh elastic elastic_10h stochastic_base_librispeech      one node of 8
#   GPUS=4 NODES=2 PARTITION=gpu examples/librispeech/finetune.sh elastic elastic_10h stochastic_base_librispeech
#   GPUS=4 NODES=2 MASTER=node1:29500 examples/librispeech/finetune.sh ...                       2 nodes, on each
#
# SOURCE is the name of a pre-training, or any checkpoint, stock fairseq's too: wav2vec_small.pt, wav2vec_small_960h.pt.
# Further arguments are fairseq's overrides: model.point=2,1,1 fine-tunes at that point.

source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage $# 3 "finetune.sh NAME CONFIG SOURCE [OVERRIDE...]"
name=$1 config=$2 start=$(checkpoint_of "$3")
shift 3
need "configs/finetuning/$config.yaml" "CONFIG must be a file of configs/finetuning"
need "$start" "SOURCE must be a checkpoint, or what pretrain.sh has trained"
train finetuning "$config" 8 "$OUT/finetune/$name" "model.w2v_path='$start'" "$@"
export_model "$OUT/finetune/$name"
