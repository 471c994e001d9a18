#!/usr/bin/env bash
# Runs all tests on the CPU, in .venv (made here if it is missing); at most 10 minutes on 2 cores.
#
#   bash test.sh                     everything: style, then the tests of each stage
#   bash test.sh eval_perplexity     one stage
#   TEST_WORKERS=8 bash test.sh      on a machine with more than 2 cores
#   PYTHON=python3.12 bash test.sh   with another interpreter
set -u
cd "$(dirname "$0")" || exit 1
. ./env.sh
prepare_environment || exit 1
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

if [ "$(uname)" = Linux ] && ! command -v g++ >/dev/null; then
  echo "note: without g++ DeepSpeed cannot build its CPU optimizer; its tests are skipped (Debian: apt install g++)"
fi

stages=("$@")
[ $# -gt 0 ] || stages=(tests common continuous_finetuning eval_perplexity needle longbench ruler fig)

failed=()
echo "== style"
ruff check . && ruff format --check . || failed+=(style)
for stage in "${stages[@]}"; do # one pytest each: stages have modules of the same names
  echo "== $stage"
  python -m pytest -rs -n "${TEST_WORKERS:-2}" --dist loadfile --no-loadscope-reorder "$stage" || failed+=("$stage")
done
if [ ${#failed[@]} -gt 0 ]; then
  echo "failed: ${failed[*]}" >&2
  exit 1
fi
printf 'all passed in %d:%02d minutes\n' $((SECONDS / 60)) $((SECONDS % 60))
