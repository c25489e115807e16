#!/usr/bin/env bash
# Train the elastic student of examples/models on the training audio of the teacher. Run it again with the same arguments
# to continue an interrupted run; then create the models with ship_models.py.
#
#   ./train_elastic.sh OUT      # a folder of train_teacher.sh, with `mix`
#
# Settings in the environment:
#
#   UPDATES        length of the training (default 4000)
#   AUTOCAST=true  compute in bf16 (default: if the processor has AMX)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=$(cd "$1" && pwd)
updates=${UPDATES:-4000}
autocast=${AUTOCAST:-$(grep -q amx_bf16 /proc/cpuinfo && echo true || echo false)}
fairseq-hydra-train --config-dir "$here" --config-name elastic hydra.run.dir="$out/elastic" \
  common.user_dir="$(w2v-compress user-dir)" checkpoint.save_dir="$out/elastic" common.log_interval=100 \
  task.data="$out/mix" dataset.train_subset=mixed dataset.max_tokens=960000 \
  dataset.validate_interval_updates=1000 checkpoint.save_interval_updates=500 \
  optimization.max_update="$updates" +model.autocast="$autocast" \
  criterion.teacher_checkpoint="$here/teacher/teacher.pt" model.init_checkpoint="$here/teacher/teacher.pt" \
  2>&1 | tee -a "$out/elastic.log"
