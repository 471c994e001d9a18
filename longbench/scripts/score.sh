#!/usr/bin/env bash
# Scores all predictions: LongBench, LongBench-E, many-shot TREC, kv and icl, every model, every set. Needs no GPU.
#
#   bash scripts/score.sh                     predictions in this stage's folder
#   OUTPUT_ROOT=/some/folder bash scripts/score.sh --models A B      further flags go to the scorers
set -u
cd "$(dirname "$0")/.." || exit 1
. ./pool.sh

output_root=${OUTPUT_ROOT:-.} # contains pred/, pred_e/, pred_trec/; relative to the stage's folder
score() { # folder of predictions, script, flags
  [ -d "$output_root/$1" ] || return 0
  run "$python" "${@:2}" --output_dir "$output_root" || echo "$1/" >>"$failures"
}
score pred eval.py "$@"
score pred_e eval.py --e "$@"
score pred_trec eval_trec.py "$@"
score pred_kv eval.py --benchmark kv "$@"
score pred_icl eval.py --benchmark icl "$@"
ls -d "$output_root"/pred* >/dev/null 2>&1 || echo "no predictions in $output_root" >>"$failures"
finish
