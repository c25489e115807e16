#!/usr/bin/env bash
# Train the teacher of the quickstart. Run it again with the same arguments to continue an interrupted run.
#
#   ./train_teacher.sh OUT [--speech FOLDER]... [--digits FOLDER]     # folders of speech: see make_mix.py
#
# Needs w2v_compress in the environment, and Debian's `flite` for make_mix.py. Settings in the environment:
#
#   FROM             a checkpoint or model file to go on from, in place of the first stage
#   HOURS            time of the second stage, all runs together; without it, MIXED_UPDATES end it
#   SHORT_UPDATES, MIXED_UPDATES, LAST_UPDATES
#                    length of the stages
#   CPU=false        train on a GPU, in bf16; on a CPU with AMX, autocast computes in bf16
#   TEACHER          output folder
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
short_updates=${SHORT_UPDATES:-2500}
mixed_updates=${MIXED_UPDATES:-30000}
last_updates=${LAST_UPDATES:-8000}
cpu=${CPU:-true}
if $cpu; then bf16=false; else bf16=true; fi
if $cpu && grep -q amx_bf16 /proc/cpuinfo; then autocast=true; else autocast=false; fi
teacher=${TEACHER:-$here/../teacher}
out=$(mkdir -p "$1" && cd "$1" && pwd)
shift

if [ ! -e "$out/mix/dict.ltr.txt" ]; then
  python "$here/make_mix.py" "$out/mix" --prompts "$here/../corpus" --aligner prompts-teacher "$@"
fi

# stage NAME SUBSET UPDATES [OVERRIDE...]: run fairseq-hydra-train, and log to OUT/NAME.log.
stage() {
  local name=$1 subset=$2 updates=$3
  shift 3
  fairseq-hydra-train --config-dir "$here" --config-name teacher hydra.run.dir="$out/$name" \
    common.user_dir="$(w2v-compress user-dir)" common.cpu="$cpu" common.bf16="$bf16" model.autocast="$autocast" task.data="$out/mix" \
    checkpoint.save_dir="$out/$name" dataset.train_subset="$subset" optimization.max_update="$updates" "$@" \
    2>&1 | tee -a "$out/$name.log"
}

# from CHECKPOINT: overrides that start from its weights, in place of random ones.
from() { echo "+model.init_checkpoint=$1 ~model.w2v_args"; }

# Short audio first, unmasked: CTC leaves its blank plateau after about 800 updates, and much later on all audio or with
# masks. The last stage leaves out the joined prompts. ../teacher/README.md has the trials behind the settings.
long=(dataset.max_tokens=960000 criterion._name=intermediate_ctc "+criterion.intermediate_layers=[3]")
if [ -n "${FROM:-}" ]; then
  start=$(realpath "$FROM")
else
  start=$out/short/checkpoint_last.pt
  stage short short "$short_updates" model.apply_mask=false
fi
# shellcheck disable=SC2046
stage mixed mixed "$mixed_updates" "${long[@]}" $(from "$start") optimization.stop_time_hours="${HOURS:-0}"
# shellcheck disable=SC2046
stage last last "$last_updates" "${long[@]}" $(from "$out/mixed/checkpoint_last.pt") \
  lr_scheduler.warmup_steps=$((last_updates / 20)) lr_scheduler.hold_steps=$((last_updates / 4)) \
  lr_scheduler.decay_steps=$((last_updates * 7 / 10))
logs=("$out/mixed.log" "$out/last.log")
[ -n "${FROM:-}" ] || logs=("$out/short.log" "${logs[@]}")
grep -hoE '\{"epoch".*\}' "${logs[@]}" > "$teacher/training_log.jsonl"
python "$here/ship_teacher.py" "$out/last/checkpoint_best.pt" "$teacher/teacher.pt"
