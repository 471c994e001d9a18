#!/usr/bin/env bash
# Perplexity of the checkpoints of one method at 2048 ... 65536 tokens on PG19 and Proof-pile, to
# results/{pg19,proof_file}/{model}_{length}_{pg19,proof_file}.json. eval_pi.sh, eval_ntk.sh, ... are links to this
# script, which reads the method from its own name. Settings and flags as in ../eval.sh, for instance
#
#   CHECKPOINTS="path_to_checkpoint" NPROC=8 bash scripts/eval_clex.sh
name=$(basename "$0" .sh) # eval_clex
cd "$(dirname "$0")/.." || exit 1

ckpts=../continuous_finetuning/ckpts/llama2-7b-hf-slimpajama # where finetune.sh and extend.sh put them
prefix=$ckpts/llama2-7b-hf-slimpajama
case $name in
  eval_pi) checkpoints="meta-llama/Llama-2-7b-hf ${prefix}_origin_32768 ${prefix}_pi_32768" ;;
  eval_ntk) checkpoints="${prefix}_ntk_32768 ${prefix}_ntk_65536" ;;
  eval_lm_infinite) checkpoints="${prefix}_lm_infinite_frozen" ;;
  eval_selfextend) checkpoints="${prefix}_self_extend_frozen" ;;
  eval_landmark) checkpoints="${prefix}_landmark_512" ;;
  *) checkpoints="${prefix}_${name#eval_}_32768" ;;
esac
case $name in eval_landmark | eval_lm_infinite | eval_selfextend) set -- --trust_remote_code ../continuous_finetuning/modeling "$@" ;; esac
CHECKPOINTS=${CHECKPOINTS:-$checkpoints} SCRIPT=$name.py exec bash eval.sh "$@"
