#!/usr/bin/env bash
# Scores all predictions: LongBench, LongBench-E and many-shot TREC, every model, every set. Needs no GPU.
#
#   bash scripts/score.sh                     predictions in this stage's folder
#   OUTPUT_ROOT=/some/folder bash scripts/score.sh --models A B      further flags go to the scorers
set -u
cd "$(dirname "$0")/.." || exit 1
. ./pool.sh

output_root=${OUTPUT_ROOT:-.} # contains pred/, pred_e/, pred_trec/; relative to the stage's folder
found=no
score() { # folder of predictions, script, flags
  if [ ! -d "$output_root/$1" ]; then return; fi
  found=yes
  run "$python" "${@:2}" --output_dir "$output_root" || echo "$1/" >>"$failures"
}
score pred eval.py "$@"
score pred_e eval.py --e "$@"
score pred_trec eval_trec.py "$@"
if [ $found = no ]; then
  echo "error: $output_root has no pred/, pred_e/ or pred_trec/; make predictions with pred.py, or set OUTPUT_ROOT" >&2
  exit 1
fi
finish
