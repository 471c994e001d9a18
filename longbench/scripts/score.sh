#!/usr/bin/env bash
# Scores everything there is: LongBench, LongBench-E and many-shot TREC, every model, every set. Needs no GPU.
#
#   bash scripts/score.sh                     predictions in this stage's folder
#   OUTPUT_ROOT=/some/folder bash scripts/score.sh --models A B      further flags go to the scorers
set -u
cd "$(dirname "$0")/.." || exit 1

output_root=${OUTPUT_ROOT:-.} # has pred/, pred_e/, pred_trec/ in it; relative to the stage's folder
python=${PYTHON:-python}

status=0 found=0
score() { # folder of predictions, script and flags
  local folder=$output_root/$1
  shift
  [ -d "$folder" ] || return 0
  found=1
  echo "+ $python $*"
  "$python" "$@" || status=1
}
score pred eval.py --output_dir "$output_root" "$@"
score pred_e eval.py --e --output_dir "$output_root" "$@"
score pred_trec eval_trec.py --output_dir "$output_root" "$@"
if [ $found = 0 ]; then
  echo "error: $output_root has no pred/, pred_e/ or pred_trec/; make predictions with pred.py, or set OUTPUT_ROOT" >&2
  exit 1
fi
exit $status
