#!/usr/bin/env bash
# Perplexity of every checkpoint on every dataset at every length; one result file each.
#
#   bash eval.sh                                                   what the arrays below say
#   CHECKPOINTS="a b" LENGTHS="2048 4096" bash eval.sh --max_windows 200        further flags go to eval_ppl.py
#   NPROC=8 bash eval.sh          the windows of each evaluation on 8 GPUs
#   GPUS="0 1 2 3" bash eval.sh   an evaluation on each of 4 GPUs at a time
#   JOBS=2 bash eval.sh           two evaluations at a time (small models on a CPU)
#
# Paths are relative to this folder and hold no spaces. Run it again after a crash: finished results are skipped, the
# unfinished one goes on where it was.
set -u
cd "$(dirname "$0")" || exit 1

checkpoints=(${CHECKPOINTS:-meta-llama/Llama-2-7b-hf})
datasets=(${DATASETS:-data/pg19/test.bin data/proof_file/test_sampled_data.bin}) # made by prepare_data.py
lengths=(${LENGTHS:-2048 4096 8192 16384 32768 65536})                           # window lengths, tokens

script=${SCRIPT:-eval_ppl.py}
output_root=${OUTPUT_ROOT:-results} # results go to $output_root/<dataset's folder>/
sliding_window=${SLIDING_WINDOW:-256}
documents=${DOCUMENTS:-10}
batch_size=${BATCH_SIZE:-1}
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

evaluate() { # checkpoint dataset [flags]
  local checkpoint=$1 dataset=$2
  shift 2
  local command=(
    "${launch[@]}" "$script"
    --base_model "$checkpoint"
    --data_path "$dataset"
    --seq_len "${lengths[@]}"
    --sliding_window "$sliding_window"
    --documents "$documents"
    --batch_size "$batch_size"
    --output_dir "$output_root/$(basename "$(dirname "$dataset")")"
    "$@"
  )
  echo "+ ${command[*]}"
  "${command[@]}" || echo "$checkpoint on $dataset" >>"$failures"
}

worker() { # j [flags]: takes evaluations j, j + jobs, ...
  local worker=$1 number=0
  shift
  if [ ${#gpus[@]} -gt 0 ]; then export CUDA_VISIBLE_DEVICES=${gpus[$worker]}; fi
  for checkpoint in "${checkpoints[@]}"; do
    for dataset in "${datasets[@]}"; do
      if [ $((number % jobs)) -eq "$worker" ]; then evaluate "$checkpoint" "$dataset" "$@"; fi
      number=$((number + 1))
    done
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

if [ -s "$failures" ]; then
  sed 's/^/failed: /' "$failures" >&2
  exit 1
fi
