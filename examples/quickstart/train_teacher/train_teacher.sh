#!/usr/bin/env bash
# Train the teacher of the quickstart. Run it again with the same arguments to continue an interrupted run.
#
#   ./train_teacher.sh OUT [--speech FOLDER]... [--digits FOLDER]     # folders of speech: see make_mix.py
#
# Needs w2v_compress in the environment, and Debian's `flite` for make_mix.py. CPU=false trains on a GPU;
# SHORT_UPDATES, MIXED_UPDATES and PROMPT_UPDATES set the length of the stages, and TEACHER the output folder.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
short_updates=${SHORT_UPDATES:-2500}
mixed_updates=${MIXED_UPDATES:-2000}
prompt_updates=${PROMPT_UPDATES:-5000}
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
    common.user_dir="$(w2v-compress user-dir)" common.cpu="${CPU:-true}" task.data="$out/mix" \
    checkpoint.save_dir="$out/$name" dataset.train_subset="$subset" optimization.max_update="$updates" "$@" \
    2>&1 | tee -a "$out/$name.log"
}

# Short unmasked audio first: CTC leaves its blank plateau after about 800 updates, and much later on all audio.
stage short short "$short_updates"
masked=(model.apply_mask=true model.layerdrop=0.05)
stage mixed mixed "$mixed_updates" "${masked[@]}" checkpoint.finetune_from_model="$out/short/checkpoint_last.pt"
stage prompts prompts "$prompt_updates" "${masked[@]}" checkpoint.finetune_from_model="$out/mixed/checkpoint_last.pt" \
  lr_scheduler.warmup_steps=100 lr_scheduler.hold_steps=$((prompt_updates * 48 / 100)) \
  lr_scheduler.decay_steps=$((prompt_updates * 48 / 100))
grep -hoE '\{"epoch".*\}' "$out"/{short,mixed,prompts}.log > "$teacher/training_log.jsonl"
python "$here/ship_teacher.py" "$out/prompts/checkpoint_best.pt" "$teacher/teacher.pt"
