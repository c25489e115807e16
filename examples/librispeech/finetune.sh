#!/usr/bin/env bash
# Fine-tune SOURCE with CTC and a file of configs/finetuning in OUT/finetune/NAME, and export model.safetensors there.
#
#   examples/librispeech/finetune.sh elastic elastic_10h stochastic_base_librispeech             one GPU
#   GPUS=8 examples/librispeech/finetune.sh elastic elastic_10h stochastic_base_librispeech      one node of 8
#   GPUS=4 NODES=2 PARTITION=gpu examples/librispeech/finetune.sh elastic elastic_10h stochastic_base_librispeech
#   GPUS=4 NODES=2 MASTER=node1:29500 examples/librispeech/finetune.sh ...                       2 nodes, on each
#
# SOURCE is the name of a pre-training, or a checkpoint, for example of stock fairseq: wav2vec_small.pt.
# Further arguments are overrides of the configuration: model.point=2,1,1 fine-tunes at that compression point.

source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage $# 3 "finetune.sh NAME CONFIG SOURCE [OVERRIDE...]"
name=$1 config=$2 start=$(checkpoint_of "$3")
shift 3
require "configs/finetuning/$config.yaml" "CONFIG must be a file of configs/finetuning"
require "$start" "SOURCE must be a checkpoint or a pre-training of pretrain.sh"
train finetuning "$config" 8 "$OUT/finetune/$name" "model.w2v_path='$start'" "$@"
export_model "$OUT/finetune/$name"
