#!/usr/bin/env bash
# Applies methods to the base without training; a few seconds each.
#
#   bash extend.sh                                          the methods that need no training, Llama-2-7B, 32k
#   METHODS="ntk_frozen yarn llama3" TARGET=16384 BASE=... bash extend.sh
#   LONGEST_TEXT=65536 bash extend.sh                       evaluations beyond the window; Self-Extend depends on them
#   FLAGS_lm_infinite="--global_tokens 4" bash extend.sh    flags of one method; further flags are for all. In a study,
#                                                           of a method that it also trains: FLAGS_yarn_frozen
#
# Rerun it to resume: what exists is skipped.
set -u
cd "$(dirname "$0")" || exit 1
. ./pool.sh

methods=(${METHODS:-ntk_frozen lm_infinite self_extend})
target=${TARGET:-32768}                # window to reach, tokens
longest_text=${LONGEST_TEXT:-$target}  # of the evaluations, tokens

base=${BASE:-meta-llama/Llama-2-7b-hf}
recipe=${RECIPE:-llama2-7b-hf-slimpajama}
output_root=${OUTPUT_ROOT:-ckpts/$recipe}

for method in "${methods[@]}"; do
  name=${method%_frozen}_frozen method_flags=FLAGS_$method
  if [[ " ${TRAINED:-} " == *" $method "* ]]; then method_flags=FLAGS_$name; fi # the other ones are for the training
  run "$python" extend.py --model_name_or_path "$base" --method_name "$method" --model_max_length "$target" \
    --longest_text "$longest_text" --output_dir "$output_root/${recipe}_$name" ${!method_flags:-} "$@" ||
    echo "$method" >>"$failures"
done
finish
