#!/usr/bin/env bash
# Train the quickstart's teacher. An interrupted run goes on where it was when started again with the same arguments.
#
#   ./train_teacher.sh OUT [--speech FOLDER]... [--digits FOLDER]     # folders of speech: see make_mix.py
#
# Run it in an environment with w2v_compress; make_mix.py needs Debian's `flite`. CPU=false trains on a GPU.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=$(mkdir -p "$1" && cd "$1" && pwd)
shift

if [ ! -e "$out/mix/dict.ltr.txt" ]; then
  python "$here/make_mix.py" "$out/mix" --prompts "$here/../corpus" "$@"
fi

# stage NAME SUBSET UPDATES [SETTING...]: one run of fairseq-hydra-train, logged to OUT/NAME.log
stage() {
  local name=$1 subset=$2 updates=$3
  shift 3
  fairseq-hydra-train --config-dir "$here" --config-name teacher hydra.run.dir="$out/$name" \
    common.user_dir="$(w2v-compress user-dir)" common.cpu="${CPU:-true}" task.data="$out/mix" \
    checkpoint.save_dir="$out/$name" dataset.train_subset="$subset" optimization.max_update="$updates" "$@" \
    2>&1 | tee -a "$out/$name.log"
}

# Short and unmasked first: so CTC leaves its blank plateau after some 800 updates, on everything only much later.
stage short short 2500
stage mixed mixed "${MIXED_UPDATES:-6000}" model.apply_mask=true model.layerdrop=0.05 \
  checkpoint.finetune_from_model="$out/short/checkpoint_last.pt"
stage prompts prompts "${PROMPT_UPDATES:-2000}" model.apply_mask=true model.layerdrop=0.05 \
  checkpoint.finetune_from_model="$out/mixed/checkpoint_last.pt" \
  lr_scheduler.warmup_steps=100 lr_scheduler.hold_steps=100 "lr_scheduler.decay_steps=$((${PROMPT_UPDATES:-2000} - 200))"
python "$here/ship_teacher.py" "$out/prompts/checkpoint_best.pt" "$here/../teacher/teacher.pt"
