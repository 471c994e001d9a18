#!/usr/bin/env bash
# Perplexity of every checkpoint on every dataset at every length; one result file each.
#
#   bash eval.sh                                                   the arrays below
#   CHECKPOINTS="a b" LENGTHS="2048 4096" bash eval.sh --max_windows 200        further flags go to eval_ppl.py
#   NPROC=8 bash eval.sh          the windows of each evaluation on 8 GPUs
#   GPUS="0 1 2 3" bash eval.sh   the checkpoints shared among 4 GPUs
#   JOBS=2 bash eval.sh           two processes side by side (small models on a CPU)
#
# Paths are relative to this folder and contain no spaces. Rerun the same command to resume.
set -u
cd "$(dirname "$0")" || exit 1
. ./pool.sh

checkpoints=(${CHECKPOINTS:-meta-llama/Llama-2-7b-hf})
datasets=(${DATASETS:-data/pg19/test.bin data/proof_file/test_sampled_data.bin}) # made by prepare_data.py
lengths=(${LENGTHS:-2048 4096 8192 16384 32768 65536})                           # window lengths, tokens
flags=("$@")

dataset_name() { # DATASET: as in eval_ppl.py, its folder's name, or its own where the folder's says nothing
  local folder
  folder=$(basename "$(dirname "$1")")
  case $folder in . | .. | data) echo "$folder/$(basename "${1%.*}")" ;; *) echo "$folder" ;; esac
}

twice=$(printf '%s\n' "${datasets[@]}" | sort -u | while read -r path; do dataset_name "$path"; done | sort | uniq -d | xargs)
[ -z "$twice" ] || refuse "the results of several data sets would be called $twice and replace each other; rename folders"

evaluate() { # checkpoints
  local dataset status=0
  for dataset in "${datasets[@]}"; do # results go to $OUTPUT_ROOT/<dataset's folder>/
    run "${launch[@]}" "${SCRIPT:-eval_ppl.py}" \
      --base_model "$@" \
      --data_path "$dataset" \
      --seq_len "${lengths[@]}" \
      --sliding_window "${SLIDING_WINDOW:-256}" \
      --documents "${DOCUMENTS:-10}" \
      --batch_size "${EVAL_BATCH_SIZE:-1}" \
      --output_dir "${OUTPUT_ROOT:-results}/$(basename "$(dirname "$dataset")")" \
      ${flags[@]+"${flags[@]}"} || status=$?
  done
  return $status
}

pool "${checkpoints[@]}"
finish
