#!/usr/bin/env bash
# Predictions of the models of config/model2path.json; then `bash scripts/score.sh` scores them.
#
#   cd longbench; bash scripts/eval_llama2.sh [flags of pred.py]
#
# ../eval.sh does the same for any checkpoint, and scores; its environment variables (NPROC, JOBS, GPUS, ...) hold here.
set -u
cd "$(dirname "$0")/.." || exit 1

# LongBench
datasets=(narrativeqa qasper multifieldqa_en hotpotqa 2wikimqa musique gov_report qmsum multi_news trec triviaqa samsum
  passage_count passage_retrieval_en lcc repobench-p)

# many-shot TREC
# datasets=(trec_1000shots trec_875shots trec_750shots trec_625shots trec_500shots trec_400shots trec_300shots
#   trec_200shots trec_100shots trec_75shots trec_50shots trec_25shots trec_10shots trec_5shots trec_1shots)

# LongBench-E, with the flag --e
# datasets=(qasper multifieldqa_en hotpotqa 2wikimqa gov_report multi_news trec triviaqa samsum passage_count
#   passage_retrieval_en lcc repobench-p)

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

export DATASETS=${DATASETS:-${datasets[*]}} MODELS=${MODELS:-${models[*]}} SCORE=${SCORE:-no}
exec bash eval.sh "$@"
