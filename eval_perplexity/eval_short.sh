#!/usr/bin/env bash
# Short tasks (lm-eval) of every checkpoint, and the table of the changes from the base.
#
#   CHECKPOINTS="base a b" bash eval_short.sh --tasks hellaswag --limit 500       further flags go to eval_short.py
#   GPUS="0 1 2 3" bash eval_short.sh   the checkpoints shared among 4 GPUs
#
# Paths are relative to this folder and contain no spaces. Rerun the same command to resume.
set -u
cd "$(dirname "$0")" || exit 1
. ./pool.sh

checkpoints=(${CHECKPOINTS:-meta-llama/Llama-2-7b-hf})
flags=("$@")

evaluate() { # checkpoints
  run "$python" eval_short.py --base_model "$@" --output_dir "${OUTPUT_ROOT:-results_short}" ${flags[@]+"${flags[@]}"}
}

pool "${checkpoints[@]}"
finish
