#!/usr/bin/env bash
# Train a student of examples/models on the training audio of the teacher: the elastic one, or a separate one of the same
# depth to compare it with. Run it again with the same arguments to continue an interrupted run; then create the models
# with ship_models.py.
#
#   ./train_elastic.sh OUT             # a folder of train_teacher.sh, with `mix`; the checkpoint is in OUT/elastic
#   ./train_elastic.sh OUT separate    # the same layers without compression; the checkpoint is in OUT/separate
#
# Settings in the environment:
#
#   UPDATES        length of the training (default 4000)
#   AUTOCAST=true  compute in bf16 (default: if the processor has AMX)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=$(cd "$1" && pwd)
name=${2:-elastic}
updates=${UPDATES:-4000}
autocast=${AUTOCAST:-$(grep -q amx_bf16 /proc/cpuinfo && echo true || echo false)}
case $name in
  elastic) student=(--config-name elastic) ;;
  separate) student=(--config-name student model.encoder_layers=4 "+model.layers=[0,1,3,5]") ;;
  *) echo "train_elastic.sh: the student is $name; it must be elastic or separate" >&2; exit 1 ;;
esac
# The mix `last` has the real speech three times, which the teacher learned more from (teacher/ledger_last.json).
fairseq-hydra-train --config-dir "$here" "${student[@]}" hydra.run.dir="$out/$name" \
  common.user_dir="$(w2v-compress user-dir)" checkpoint.save_dir="$out/$name" common.log_interval=100 \
  task.data="$out/mix" dataset.train_subset=last dataset.max_tokens=960000 \
  dataset.validate_interval_updates=1000 checkpoint.save_interval_updates=500 \
  optimization.max_update="$updates" +model.autocast="$autocast" \
  criterion.teacher_checkpoint="$here/teacher/teacher.pt" model.init_checkpoint="$here/teacher/teacher.pt" \
  2>&1 | tee -a "$out/$name.log"
