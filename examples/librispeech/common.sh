# Shared by the scripts of this folder: settings, and launching of trainings on GPUs and nodes.
#
# Relative paths start at the top of the repository. Settings are environment variables (defaults in brackets):
#
#   OUT        folder for data, checkpoints and tables                                     (runs/librispeech)
#   GPUS       GPUs per node                                                                              (1)
#   NODES      number of nodes                                                                            (1)
#   PARTITION  slurm partition to submit trainings to, and wait for them                      (none: run here)
#   MASTER     HOST:PORT of one node, without slurm: run the same command on each of the NODES
#   DRY_RUN    1 to print the commands without running them                                               (0)

set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/../.."  # the configurations use paths relative to the top of the repository

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

# run COMMAND...: print the command, and run it unless DRY_RUN is 1.
run() {
  printf '%q ' "$@"
  printf '\n'
  [ "$DRY_RUN" = 1 ] || "$@"
}

# require FILE HINT: stop with HINT if FILE, the output of an earlier script, does not exist.
require() {
  [ "$DRY_RUN" = 1 ] || [ -e "$1" ] || die "$1 does not exist; $2"
}

for count in "$GPUS" "$NODES"; do
  [[ $count =~ ^[1-9][0-9]*$ ]] || die "GPUS is $GPUS and NODES $NODES; both must be whole numbers of at least 1"
done

# usage COUNT MINIMUM TEXT: stop with the usage TEXT if COUNT arguments are too few.
usage() {
  [ "$1" -ge "$2" ] || die "usage: $3"
}

# checkpoint_of SOURCE: the path of a checkpoint, given as a path or as the name of a pre-training.
checkpoint_of() {
  case $1 in
    *.pt | *.safetensors) printf '%s' "$1" ;;
    *) printf '%s' "$OUT/pretrain/$1/checkpoint_last.pt" ;;
  esac
}

# train FOLDER CONFIG BATCHES DIR OVERRIDE...: train configs/FOLDER/CONFIG in DIR, with BATCHES batches per update.
# Continues from the last checkpoint of an interrupted training, and does nothing if the training has finished.
train() {
  local folder=$1 config=$2 batches=$3 dir=$4
  shift 4
  local processes=$((GPUS * NODES))
  [ $((batches % processes)) = 0 ] || die "GPUS x NODES is $processes; it must divide the $batches batches of an update"
  require "$data/dict.ltr.txt" "run prepare.sh first"
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
    [ -n "$MASTER" ] || die "NODES is $NODES; set PARTITION, or on each of the nodes MASTER=HOST:PORT"
    local fairseq
    fairseq=$(command -v fairseq-hydra-train) || die "fairseq-hydra-train is not installed"
    command=(torchrun --nnodes "$NODES" --nproc_per_node "$GPUS" --rdzv_backend c10d --rdzv_endpoint "$MASTER" "$fairseq")
  fi
  run "${command[@]}" --config-dir "configs/$folder" --config-name "$config" \
    "task.data='$data'" "checkpoint.save_dir='$dir'" "${spread[@]}" "$@"
  run touch "$dir/finished"
}

# export_model DIR: export the best checkpoint of a fine-tuning to DIR/model.safetensors.
export_model() {
  [ -e "$1/model.safetensors" ] || run w2v-compress export "$1/checkpoint_best.pt" "$1/model.safetensors"
}
