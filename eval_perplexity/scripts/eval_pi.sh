#!/usr/bin/env bash
# Perplexity of base, origin and PI checkpoints at 2048 ... 65536 tokens on PG19 and Proof-pile, to
# results/{pg19,proof_file}/{model}_{length}_{pg19,proof_file}.json. Settings and flags as in ../eval.sh, for instance
#
#   CHECKPOINTS="path_to_checkpoint" NPROC=8 bash scripts/eval_pi.sh
cd "$(dirname "$0")/.." || exit 1

ckpts=../continuous_finetuning/ckpts/llama2-7b-hf-slimpajama # where finetune.sh puts them
checkpoints=(
  meta-llama/Llama-2-7b-hf
  "$ckpts/llama2-7b-hf-slimpajama_origin_32768"
  "$ckpts/llama2-7b-hf-slimpajama_pi_32768"
)
export CHECKPOINTS=${CHECKPOINTS:-${checkpoints[*]}}
export LENGTHS=${LENGTHS:-2048 4096 8192 16384 32768 65536}
SCRIPT=eval_pi.py exec bash eval.sh "$@"
