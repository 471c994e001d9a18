#!/usr/bin/env bash
# Runs every test of the kit on the CPU, in .venv (made and reused here).
#
#   bash test.sh                     everything: style, then each stage's tests
#   bash test.sh eval_perplexity     one stage
#   TEST_WORKERS=8 bash test.sh      on a machine with more than 2 cores
#   PYTHON=python3.12 bash test.sh   with another interpreter
set -u
cd "$(dirname "$0")" || exit 1
. ./env.sh
prepare_environment || exit 1
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

if [ "$(uname)" = Linux ] && ! command -v g++ >/dev/null; then
  echo "note: no g++ here, which DeepSpeed builds its CPU optimizer with; its tests are skipped (Debian: apt install g++)"
fi

stages=("$@")
[ $# -gt 0 ] || stages=(tests continuous_finetuning eval_perplexity needle longbench ruler fig)

failed=()
echo "== style"
ruff check . && ruff format --check . || failed+=(style)
for stage in "${stages[@]}"; do # one process each: the stages know nothing of each other
  echo "== $stage"
  # most of the time is scripts being started: two files of tests at a time
  python -m pytest -rs -n "${TEST_WORKERS:-2}" --dist loadfile --no-loadscope-reorder "$stage" || failed+=("$stage")
done
if [ ${#failed[@]} -gt 0 ]; then
  echo "failed: ${failed[*]}" >&2
  exit 1
fi
echo "all passed"
