#!/usr/bin/env bash
# Scores the predictions of run.sh and prints one table of all models and lengths; needs no GPU.
#
#   bash eval.sh                                                  everything in ROOT_DIR
#   SEQ_LENGTHS="4096 8192" TASKS="vt cwe" bash eval.sh           reports which of these are missing
#
# Writes RULER's summary.csv and our scores.json beside the answers. Ends with status 1 if something is missing.
set -u
cd "$(dirname "$0")" || exit 1
. ./pool.sh

lengths=(${SEQ_LENGTHS:-}) # tokens; empty: those that are there
benchmark=${BENCHMARK:-synthetic}
ROOT_DIR=${ROOT_DIR:-results}
. ./config_tasks.sh

check '[A-Za-z_][A-Za-z0-9_]*' "the name of a benchmark of config_tasks.sh" benchmark
array="$benchmark[*]"
folders=("$ROOT_DIR"/*/"$benchmark"/*/pred)
[ -d "${folders[0]}" ] || refuse "no predictions in $ROOT_DIR; run.sh makes them"
if [ ${#lengths[@]} -gt 0 ]; then set -- --max_seq_length "${lengths[@]}" "$@"; fi
"$python" eval/evaluate.py --data_dir "${folders[@]}" --benchmark "$benchmark" --task ${!array-} "$@"
