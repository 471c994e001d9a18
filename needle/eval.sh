#!/usr/bin/env bash
# The needle grid of every checkpoint; one folder of results each, and the pictures of all.
#
#   bash eval.sh                                                   what the arrays below say
#   CHECKPOINTS="a b" LENGTHS="8192 32768" bash eval.sh --trials 16          further flags go to needle_in_haystack.py
#   NPROC=8 bash eval.sh          the cells of each grid on 8 GPUs
#   GPUS="0 1 2 3" bash eval.sh   a checkpoint on each of 4 GPUs at a time
#   JOBS=2 bash eval.sh           two checkpoints at a time (small models on a CPU)
#
# Paths are relative to this folder and hold no spaces. Run it again after a crash: answers that are there are kept,
# the rest is made.
set -u
cd "$(dirname "$0")" || exit 1

checkpoints=(${CHECKPOINTS:-meta-llama/Llama-2-7b-hf})
lengths=(${LENGTHS:-}) # tokens; none: the paper's, evenly spaced from s_len to e_len
s_len=${S_LEN:-0}
e_len=${E_LEN:-65536}

haystack=${HAYSTACK:-}              # folder of .txt files, such as the paper's essays; none: a stand-in
output_root=${OUTPUT_ROOT:-results} # results go to $output_root/<checkpoint's name>/
figures=${FIGURES:-img}
python=${PYTHON:-python}
nproc=${NPROC:-1}
gpus=(${GPUS:-})
jobs=${JOBS:-1}
if [ ${#gpus[@]} -gt 0 ]; then jobs=${#gpus[@]}; fi

if [ "$nproc" -gt 1 ]; then
  launch=("$python" -m torch.distributed.run --standalone "--nproc_per_node=$nproc")
else
  launch=("$python")
fi
if [ "$jobs" -gt 1 ]; then # the jobs share the cores
  threads=$(($(getconf _NPROCESSORS_ONLN) / (jobs * nproc)))
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}
fi

evaluate() { # checkpoint [flags]
  local checkpoint=$1
  shift
  local command=("${launch[@]}" needle_in_haystack.py --model_path "$checkpoint" --output_dir "$output_root")
  if [ ${#lengths[@]} -gt 0 ]; then
    command+=(--lengths "${lengths[@]}")
  else
    command+=(--s_len "$s_len" --e_len "$e_len")
  fi
  [ -z "$haystack" ] || command+=(--haystack_dir "$haystack")
  command+=(--allow_beyond "$@") # what lies beyond a checkpoint's length is part of the study
  echo "+ ${command[*]}"
  "${command[@]}" || echo "$checkpoint" >>"$failures"
}

worker() { # j [flags]: takes checkpoints j, j + jobs, ...
  local worker=$1 number=0 checkpoint
  shift
  if [ ${#gpus[@]} -gt 0 ]; then export CUDA_VISIBLE_DEVICES=${gpus[$worker]}; fi
  for checkpoint in "${checkpoints[@]}"; do
    if [ $((number % jobs)) -eq "$worker" ]; then evaluate "$checkpoint" "$@"; fi
    number=$((number + 1))
  done
}

failures=$(mktemp)
trap 'rm -f "$failures"' EXIT
if [ "$jobs" -gt 1 ]; then
  trap 'kill 0' INT # what runs in the background does not hear Ctrl-C
  for ((job = 0; job < jobs; job++)); do worker "$job" "$@" & done
  wait
else
  worker 0 "$@"
fi
"$python" needle_plot.py --results "$output_root" --output_dir "$figures" || echo "the figure" >>"$failures"

if [ -s "$failures" ]; then
  sed 's/^/failed: /' "$failures" >&2
  exit 1
fi
