#!/usr/bin/env bash
# LongBench of every checkpoint: predictions, then the scores of everything that is there, and a table.
#
#   bash eval.sh                                                what the arrays below say
#   CHECKPOINTS="a b" DATASETS="hotpotqa trec_25shots" bash eval.sh --limit 50          further flags go to pred.py
#   MODELS="llama2-7b-hf" bash eval.sh --e                      names of config/model2path.json, LongBench-E
#   NPROC=8 bash eval.sh          the rows of each set on 8 GPUs
#   GPUS="0 1 2 3" bash eval.sh   the checkpoints on 4 GPUs side by side ("0,1 2,3": two GPUs each, for vLLM)
#   JOBS=2 bash eval.sh           two processes side by side (small models on a CPU)
#
# Paths are relative to this folder and contain no spaces. Rerun the same command to resume.
set -u
cd "$(dirname "$0")" || exit 1
. ./pool.sh

checkpoints=(${CHECKPOINTS:-}) # folders or hub ids
models=(${MODELS:-})           # names of config/model2path.json
if [ ${#checkpoints[@]} -eq 0 ] && [ ${#models[@]} -eq 0 ]; then models=(llama2-7b-hf); fi
output_root=${OUTPUT_ROOT:-.} # of pred/, pred_e/, pred_trec/
# DATASETS: longbench has all 16, with --e its 13; manyshots_trec all shots.  TENSOR_PARALLEL: GPUs of a model in vLLM
flags=(--dataset_name ${DATASETS:-longbench} --output_dir "$output_root" --batch_size "${EVAL_BATCH_SIZE:-16}"
  --tensor_parallel_size "${TENSOR_PARALLEL:-1}" "$@")

evaluate() { # checkpoints, by the flag in $kind
  run "${launch[@]}" pred.py "$kind" "$@" "${flags[@]}"
}

kind=--model
if [ ${#models[@]} -gt 0 ]; then pool "${models[@]}"; fi
kind=--model_path
if [ ${#checkpoints[@]} -gt 0 ]; then pool "${checkpoints[@]}"; fi
if [ "${SCORE:-yes}" != no ]; then # no: predictions only
  OUTPUT_ROOT=$output_root PYTHON=$python bash scripts/score.sh || echo "the scores" >>"$failures"
fi
finish
