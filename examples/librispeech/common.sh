# Sourced by the scripts beside it: settings, and how a training is spread over GPUs and nodes.
#
# Relative paths are from the top of the repository.
#
#   OUT        folder of data, checkpoints and tables                                      (runs/librispeech)
#   GPUS       GPUs of each node                                                                          (1)
#   NODES      nodes                                                                                      (1)
#   PARTITION  a partition of slurm: submit the training there and wait for it               (none: run here)
#   MASTER     HOST:PORT of one node, where there is no slurm: give the same command on every one of NODES
#   DRY_RUN    1: print the commands and run nothing                                                      (0)

set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/../.."  # the configurations name w2v_compress from the top of the repository

OUT=${OUT:-runs/librispeech}
GPUS=${GPUS:-1}
NODES=${NODES:-1}
PARTITION=${PARTITION:-}
MASTER=${MASTER:-}
DRY_RUN=${DRY_RUN:-0}
data=$OUT/data

die() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}

# run COMMAND...: print it, and run it unless DRY_RUN.
run() {
  printf '%q ' "$@"
  printf '\n'
  [ "$DRY_RUN" = 1 ] || "$@"
}

# need FILE HINT: what an earlier script leaves.
need() {
  [ "$DRY_RUN" = 1 ] || [ -e "$1" ] || die "$1 is not there; $2"
}

for count in "$GPUS" "$NODES"; do
  [[ $count =~ ^[1-9][0-9]*$ ]] || die "GPUS is $GPUS and NODES $NODES; both must be whole numbers of at least 1"
done

# usage COUNT LEAST TEXT: stop when a script was given fewer arguments than it needs.
usage() {
  [ "$1" -ge "$2" ] || die "usage: $3"
}

# The source of a fine-tuning: a checkpoint, or the name of a pre-training.
checkpoint_of() {
  case $1 in
    *.pt | *.safetensors) printf '%s' "$1" ;;
    *) printf '%s' "$OUT/pretrain/$1/checkpoint_last.pt" ;;
  esac
}

# train FOLDER CONFIG BATCHES DIR OVERRIDE...: configs/FOLDER/CONFIG into DIR, BATCHES being those of an update. The same
# command again goes on from the last checkpoint, and does nothing once the training has ended.
train() {
  local folder=$1 config=$2 batches=$3 dir=$4
  shift 4
  local processes=$((GPUS * NODES))
  [ $((batches % processes)) = 0 ] || die "GPUS x NODES is $processes; it must divide the $batches batches of an update"
  need "$data/dict.ltr.txt" "run prepare.sh first"
  if [ -e "$dir/finished" ]; then
    printf '# %s: finished\n' "$dir"
    return
  fi
  local command=(fairseq-hydra-train) spread=("distributed_training.distributed_world_size=$processes")
  spread+=("optimization.update_freq=[$((batches / processes))]")
  if [ -n "$PARTITION" ]; then
    spread+=("hydra.launcher.partition=$PARTITION")
    if [ "$processes" = 1 ]; then
      spread+=(+run_config=slurm_1)
    else
      spread+=(+run_config=slurm_8 "hydra.launcher.nodes=$NODES")
      spread+=("hydra.launcher.tasks_per_node=$GPUS" "hydra.launcher.gpus_per_node=$GPUS")
    fi
  elif [ "$NODES" -gt 1 ]; then
    [ -n "$MASTER" ] || die "NODES is $NODES; give PARTITION, or on each of the nodes MASTER=HOST:PORT"
    local fairseq
    fairseq=$(command -v fairseq-hydra-train) || die "fairseq-hydra-train is not installed"
    command=(torchrun --nnodes "$NODES" --nproc_per_node "$GPUS" --rdzv_backend c10d --rdzv_endpoint "$MASTER" "$fairseq")
  fi
  run "${command[@]}" --config-dir "configs/$folder" --config-name "$config" \
    "task.data='$data'" "checkpoint.save_dir='$dir'" "${spread[@]}" "$@"
  run touch "$dir/finished"
}

# export_model DIR: the best checkpoint of a fine-tuning as DIR/model.safetensors.
export_model() {
  [ -e "$1/model.safetensors" ] || run w2v-compress export "$1/checkpoint_best.pt" "$1/model.safetensors"
}
