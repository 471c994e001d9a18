#!/usr/bin/env bash
# Scores the predictions of run.sh and prints one table of all models and lengths; needs no GPU.
#
#   bash eval.sh                                                          everything in ROOT_DIR
#   MODELS="a b" SEQ_LENGTHS="4096 8192" TASKS="vt cwe" bash eval.sh      reports which of these are missing
#
# Writes ROOT_DIR/ruler.csv and ruler.json, and beside the answers RULER's summary.csv and submission.csv and our
# scores.json. Ends with status 1 if something is missing.
set -u
cd "$(dirname "$0")" || exit 1
. ./pool.sh

models=(${MODELS:-})       # names in ROOT_DIR; empty: all
lengths=(${SEQ_LENGTHS:-}) # tokens; empty: all
benchmark=${BENCHMARK:-synthetic}
ROOT_DIR=${ROOT_DIR:-results}
. ./config_tasks.sh

folders=("$ROOT_DIR"/*/"$benchmark"/*/pred)
if [ ! -d "${folders[0]}" ]; then
  refuse "no predictions in $ROOT_DIR; run.sh makes them"
fi
check '[A-Za-z_][A-Za-z0-9_]*' "the name of a benchmark of config_tasks.sh" benchmark
array="$benchmark[*]"
table=("$python" eval/table.py --root "$ROOT_DIR" --benchmark "$benchmark" --task ${!array-})
if [ ${#models[@]} -gt 0 ]; then table+=(--models "${models[@]}"); fi
if [ ${#lengths[@]} -gt 0 ]; then table+=(--lengths "${lengths[@]}"); fi

status=0
"$python" eval/evaluate.py --data_dir "${folders[@]}" --benchmark "$benchmark" >/dev/null || status=1
"${table[@]}" "$@" || status=1
exit "$status"
