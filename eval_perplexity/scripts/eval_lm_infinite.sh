#!/usr/bin/env bash
# Perplexity of LM-Infinite checkpoints at 2048 ... 65536 tokens on PG19 and Proof-pile, to
# results/{pg19,proof_file}/{model}_{length}_{pg19,proof_file}.json. Settings and flags as in ../eval.sh, for instance
#
#   CHECKPOINTS="path_to_checkpoint" NPROC=8 bash scripts/eval_lm_infinite.sh
cd "$(dirname "$0")/.." || exit 1

ckpts=../continuous_finetuning/ckpts/llama2-7b-hf-slimpajama # where extend.py was told to put them
checkpoints=(
  "$ckpts/llama2-7b-hf-lm-infinite"
)
export CHECKPOINTS=${CHECKPOINTS:-${checkpoints[*]}}
export LENGTHS=${LENGTHS:-2048 4096 8192 16384 32768 65536}
SCRIPT=eval_lm_infinite.py exec bash eval.sh --trust_remote_code "$@"
