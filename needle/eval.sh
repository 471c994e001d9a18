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
lengths=(${LENGTHS:-}) # tokens; none: the paper's, evenly spaced from s_len to e_len
s_len=${S_LEN:-0}
e_len=${E_LEN:-65536}

haystack=${HAYSTACK:-}              # folder of .txt files, such as the paper's essays; none: a stand-in
output_root=${OUTPUT_ROOT:-results} # results go to $output_root/<checkpoint's name>/
figures=${FIGURES:-img}
batch_size=${EVAL_BATCH_SIZE:-16} # prompts decoded together

flags=(--output_dir "$output_root" --batch_size "$batch_size" --allow_beyond) # lengths beyond a window are measured
if [ ${#lengths[@]} -gt 0 ]; then flags+=(--lengths "${lengths[@]}"); else flags+=(--s_len "$s_len" --e_len "$e_len"); fi
if [ -n "$haystack" ]; then flags+=(--haystack_dir "$haystack"); fi
flags+=("$@")

evaluate() { # checkpoints
  run "${launch[@]}" needle_in_haystack.py --model_path "$@" "${flags[@]}"
}

pool "${checkpoints[@]}"
run "$python" needle_plot.py --results "$output_root" --output_dir "$figures" || echo "the picture" >>"$failures"
finish
