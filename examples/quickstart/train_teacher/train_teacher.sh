#!/usr/bin/env bash
# Train the teacher of the quickstart. Run it again with the same arguments to continue an interrupted run.
#
#   ./train_teacher.sh OUT [--speech FOLDER]... [--digits FOLDER]     # folders of speech: see make_mix.py
#
# Needs w2v_compress in the environment, and Debian's `flite` for make_mix.py. Settings in the environment:
#
#   FROM             a checkpoint to go on from, in place of the first stage: such as the shipped teacher
#   HOURS            time of the second stage, all runs together; without it, MIXED_UPDATES end it
#   SHORT_UPDATES, MIXED_UPDATES, LAST_UPDATES
#                    length of the stages
#   CPU=false        train on a GPU, in bf16
#   TEACHER          output folder
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
short_updates=${SHORT_UPDATES:-2500}
mixed_updates=${MIXED_UPDATES:-20000}
last_updates=${LAST_UPDATES:-5000}
cpu=${CPU:-true}
if $cpu; then bf16=false; else bf16=true; fi
teacher=${TEACHER:-$here/../teacher}
out=$(mkdir -p "$1" && cd "$1" && pwd)
shift

if [ ! -e "$out/mix/dict.ltr.txt" ]; then
  python "$here/make_mix.py" "$out/mix" --prompts "$here/../corpus" "$@"
fi

# stage NAME SUBSET UPDATES [OVERRIDE...]: run fairseq-hydra-train, and log to OUT/NAME.log.
stage() {
  local name=$1 subset=$2 updates=$3
  shift 3
  fairseq-hydra-train --config-dir "$here" --config-name teacher hydra.run.dir="$out/$name" \
    common.user_dir="$(w2v-compress user-dir)" common.cpu="$cpu" common.bf16="$bf16" task.data="$out/mix" \
    checkpoint.save_dir="$out/$name" dataset.train_subset="$subset" optimization.max_update="$updates" "$@" \
    2>&1 | tee -a "$out/$name.log"
}

# from CHECKPOINT: overrides that start from its weights, in place of random ones.
from() { echo "+model.init_checkpoint=$1 ~model.w2v_args"; }

# Short unmasked audio first: CTC leaves its blank plateau after about 800 updates, and much later on all audio.
start=${FROM:-$out/short/checkpoint_last.pt}
[ -n "${FROM:-}" ] || stage short short "$short_updates"
masked=(model.apply_mask=true model.layerdrop=0.05)
# shellcheck disable=SC2046
stage mixed mixed "$mixed_updates" "${masked[@]}" $(from "$start") optimization.stop_time_hours="${HOURS:-0}"
# shellcheck disable=SC2046
stage last mixed "$last_updates" "${masked[@]}" $(from "$out/mixed/checkpoint_last.pt") \
  lr_scheduler.warmup_steps=$((last_updates / 20)) lr_scheduler.hold_steps=0 \
  lr_scheduler.decay_steps=$((last_updates * 9 / 10))
logs=("$out/mixed.log" "$out/last.log")
[ -n "${FROM:-}" ] || logs=("$out/short.log" "${logs[@]}")
grep -hoE '\{"epoch".*\}' "${logs[@]}" > "$teacher/training_log.jsonl"
python "$here/ship_teacher.py" "$out/last/checkpoint_best.pt" "$teacher/teacher.pt"
