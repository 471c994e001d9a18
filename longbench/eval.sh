#!/usr/bin/env bash
# LongBench of every checkpoint: predictions, then the scores of all that is there, and one table.
#
#   bash eval.sh                                                what the arrays below say
#   CHECKPOINTS="a b" DATASETS="hotpotqa trec_25shots" bash eval.sh --limit 50          further flags go to pred.py
#   MODELS="llama2-7b-hf" bash eval.sh --e                      names of config/model2path.json, LongBench-E
#   NPROC=8 bash eval.sh          the rows of each set on 8 GPUs
#   GPUS="0 1 2 3" bash eval.sh   a checkpoint on each of 4 GPUs at a time ("0,1 2,3": two GPUs each)
#   JOBS=2 bash eval.sh           two checkpoints at a time (small models on a CPU)
#
# Paths are relative to this folder and hold no spaces. Run it again after a crash: rows that are there are kept, the
# rest is made.
set -u
cd "$(dirname "$0")" || exit 1

checkpoints=(${CHECKPOINTS:-}) # folders or hub ids
models=(${MODELS:-})           # names of config/model2path.json
if [ ${#checkpoints[@]} -eq 0 ] && [ ${#models[@]} -eq 0 ]; then models=(llama2-7b-hf); fi
datasets=(${DATASETS:-}) # none: LongBench's 16, with --e its 13

output_root=${OUTPUT_ROOT:-.} # pred/, pred_e/, pred_trec/ stand there
score=${SCORE:-yes}           # no: predictions only
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

predict() { # --model or --model_path, which, [flags]
  local command=("${launch[@]}" pred.py "$1" "$2" --output_dir "$output_root") which=$2
  shift 2
  if [ ${#datasets[@]} -gt 0 ]; then command+=(--dataset_name "${datasets[@]}"); fi
  command+=("$@")
  echo "+ ${command[*]}"
  "${command[@]}" || echo "$which" >>"$failures"
}

worker() { # j [flags]: takes models j, j + jobs, ...
  local worker=$1 number=0 one
  shift
  if [ ${#gpus[@]} -gt 0 ]; then export CUDA_VISIBLE_DEVICES=${gpus[$worker]}; fi
  for one in ${models[@]+"${models[@]}"}; do
    if [ $((number % jobs)) -eq "$worker" ]; then predict --model "$one" "$@"; fi
    number=$((number + 1))
  done
  for one in ${checkpoints[@]+"${checkpoints[@]}"}; do
    if [ $((number % jobs)) -eq "$worker" ]; then predict --model_path "$one" "$@"; fi
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
if [ "$score" != no ]; then
  OUTPUT_ROOT=$output_root PYTHON=$python bash scripts/score.sh || echo "the scores" >>"$failures"
fi

if [ -s "$failures" ]; then
  sed 's/^/failed: /' "$failures" >&2
  exit 1
fi
