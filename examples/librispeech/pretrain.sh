#!/usr/bin/env bash
# Pre-train a file of configs/pretraining on LibriSpeech 960h in OUT/pretrain/NAME. NAME is a setting in the environment,
# by default that of the file.
#
#   examples/librispeech/pretrain.sh stochastic_base_librispeech                                 one GPU
#   GPUS=8 examples/librispeech/pretrain.sh stochastic_base_librispeech                          one node of 8
#   GPUS=8 NODES=8 PARTITION=gpu examples/librispeech/pretrain.sh stochastic_base_librispeech    8 nodes, slurm
#   GPUS=8 NODES=8 MASTER=node1:29500 examples/librispeech/pretrain.sh ...                       8 nodes, on each
#
# Further arguments are overrides of the configuration: common.fp16=false common.bf16=true, or, to train at one point,
# NAME=pinned_s2 examples/librispeech/pretrain.sh stochastic_base_librispeech task.point="'2,1,1'" task.valid_points=[]

source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage $# 1 "pretrain.sh CONFIG [OVERRIDE...]"
config=$1
shift
require "configs/pretraining/$config.yaml" "CONFIG must be a file of configs/pretraining"
train pretraining "$config" 64 "$OUT/pretrain/${NAME:-$config}" "$@"
