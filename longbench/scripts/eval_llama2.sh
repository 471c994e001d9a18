#!/usr/bin/env bash
# Predictions of the models of config/model2path.json; then `bash scripts/score.sh` scores them.
#
#   cd longbench; bash scripts/eval_llama2.sh [flags of pred.py]              LongBench's 16 sets, with --e its 13
#   DATASETS=manyshots_trec bash scripts/eval_llama2.sh                       many-shot TREC, 1 to 1000 shots
#
# ../eval.sh does the same for any checkpoint, and scores; its variables (NPROC, JOBS, GPUS, ...) work here as well.
set -u
cd "$(dirname "$0")/.." || exit 1

models=(
  llama2-7b-hf
  llama2-7b-hf-slimpajama-landmark
  llama2-7b-hf-lminfinite
  llama2-7b-hf-slimpajama-pi-32k
  llama2-7b-hf-slimpajama-longlora-32k
  llama2-7b-hf-ntk-frozen
  llama2-7b-hf-slimpajama-ntk-32k
  llama2-7b-hf-slimpajama-ntk-64k
  llama-2-7b-hf-slimpajama-ntk-64k-2B
  llama2-7b-hf-slimpajama-yarn-32k
)

export MODELS=${MODELS:-${models[*]}} SCORE=${SCORE:-no}
exec bash eval.sh "$@"
