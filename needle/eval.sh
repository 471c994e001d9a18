#!/usr/bin/env bash
# The needle grid of every checkpoint, one folder of results each, and one picture of all.
#
#   bash eval.sh                                                   what the arrays below say
#   CHECKPOINTS="a b" LENGTHS="8192 32768" bash eval.sh --trials 16          further flags go to needle_in_haystack.py
#   NPROC=8 bash eval.sh          the prompts of each grid on 8 GPUs
#   GPUS="0 1 2 3" bash eval.sh   the checkpoints shared among 4 GPUs
#   JOBS=2 bash eval.sh           two processes side by side (small models on a CPU)
#
# Paths are relative to this folder and contain no spaces. Rerun the same command to resume.
set -u
cd "$(dirname "$0")" || exit 1
. ./pool.sh

checkpoints=(${CHECKPOINTS:-meta-llama/Llama-2-7b-hf})
output_root=${OUTPUT_ROOT:-results} # results go to $output_root/<checkpoint's name>/
flags=(--output_dir "$output_root" --batch_size "${EVAL_BATCH_SIZE:-16}" --allow_beyond) # lengths beyond a window, too
if [ -n "${TENSOR_PARALLEL:-}" ]; then flags+=(--tensor_parallel_size "$TENSOR_PARALLEL"); fi # GPUs of a model in vLLM
if [ -n "${LENGTHS:-}" ]; then # tokens; none: the paper's, evenly spaced
  flags+=(--lengths $LENGTHS)
else
  flags+=(--s_len "${S_LEN:-0}" --e_len "${E_LEN:-65536}")
fi
if [ -n "${HAYSTACK:-}" ]; then flags+=(--haystack_dir "$HAYSTACK"); fi # .txt files, as the paper's essays
flags+=("$@")

evaluate() { # checkpoints
  run "${launch[@]}" needle_in_haystack.py --model_path "$@" "${flags[@]}"
}

pool "${checkpoints[@]}"
run "$python" needle_plot.py --results "$output_root" --output_dir "${FIGURES:-img}" || echo "the picture" >>"$failures"
finish
