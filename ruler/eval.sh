#!/usr/bin/env bash
# Scores what run.sh left and prints one table of all models and lengths; needs no GPU.
#
#   bash eval.sh                                                all that is in ROOT_DIR
#   MODELS="a b" SEQ_LENGTHS="4096 8192" TASKS="vt cwe" bash eval.sh          what of these is missing, is said
#
# Writes ROOT_DIR/ruler.csv and ruler.json, and beside the answers RULER's summary.csv and submission.csv and ours,
# scores.json. Ends with status 1 where something is missing.
set -u
cd "$(dirname "$0")" || exit 1

models=(${MODELS:-})       # names in ROOT_DIR, as in run.sh; none: all that are there
lengths=(${SEQ_LENGTHS:-}) # tokens; none: all that are there
benchmark=${BENCHMARK:-synthetic}
ROOT_DIR=${ROOT_DIR:-results}
python=${PYTHON:-python}
. ./config_tasks.sh

listed() { # item [list]: whether it is in the list, or the list is empty
  local item=$1
  shift
  case " $* " in '  ' | *" $item "*) ;; *) return 1 ;; esac
}

folders=()
for folder in "$ROOT_DIR"/*/"$benchmark"/*/pred; do
  length=$(basename "$(dirname "$folder")")
  name=${folder#"$ROOT_DIR"/}
  if [ -d "$folder" ] && listed "${name%%/*}" ${MODELS:-} && listed "$length" ${SEQ_LENGTHS:-}; then
    folders+=("$folder")
  fi
done
if [ ${#folders[@]} -eq 0 ]; then
  echo "error: no predictions of ${MODELS:-any model} in $ROOT_DIR; run.sh makes them" >&2
  exit 1
fi
array="$benchmark[*]"
command=("$python" eval/table.py --root "$ROOT_DIR" --benchmark "$benchmark" --task ${!array-})
if [ ${#models[@]} -gt 0 ]; then command+=(--models "${models[@]}"); fi
if [ ${#lengths[@]} -gt 0 ]; then command+=(--lengths "${lengths[@]}"); fi

status=0
"$python" eval/evaluate.py --data_dir "${folders[@]}" --benchmark "$benchmark" >/dev/null || status=1
"${command[@]}" "$@" || status=1
exit "$status"
