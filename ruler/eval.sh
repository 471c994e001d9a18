#!/usr/bin/env bash
# Scores the predictions of run.sh and prints one table of all models and lengths; needs no GPU.
#
#   bash eval.sh                              everything in ROOT_DIR
#
# Writes RULER's summary.csv and our scores.json beside the answers. Ends with status 1 if a task is incomplete; a missing one is "-" in the table.
set -u
cd "$(dirname "$0")" || exit 1
. ./pool.sh

folders=("${ROOT_DIR:-results}"/*/"${BENCHMARK:-synthetic}"/*/pred)
[ -d "${folders[0]}" ] || refuse "no predictions in ${ROOT_DIR:-results}; run.sh makes them"
"$python" eval/evaluate.py --data_dir "${folders[@]}" --benchmark "${BENCHMARK:-synthetic}" "$@"
