#!/usr/bin/env bash
# Runs all tests on the CPU, in .venv (made here if it is missing); about 7 minutes on 2 cores.
#
#   bash test.sh                     everything: style, then the tests of each stage
#   bash test.sh eval_perplexity     one stage, or one file of tests
#   TEST_WORKERS=8 bash test.sh      stages side by side, on a machine with more than 2 cores
#   PYTHON=python3.12 bash test.sh   with another interpreter
set -u
cd "$(dirname "$0")" || exit 1
. ./env.sh
prepare_environment
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

if [ "$(uname)" = Linux ] && ! command -v g++ >/dev/null; then
  echo "note: without g++ DeepSpeed cannot build its CPU optimizer; its tests are skipped (Debian: apt install g++)"
fi

stages=("$@")
[ $# -gt 0 ] || stages=(continuous_finetuning tests common ruler longbench needle fig eval_perplexity) # longest first

export failed=$(mktemp)
trap 'rm -f "$failed"' EXIT
test_stage() { # STAGE: prints the output of its tests when they are done
  local output
  output=$(python -m pytest -rs "$1" 2>&1) || echo "$1" >>"$failed"
  printf '== %s, %d s\n%s\n' "$1" $SECONDS "$output"
}
export -f test_stage

echo "== style"
ruff check . && ruff format --check . || echo style >>"$failed"
# one pytest per stage: stages have modules of the same names
printf '%s\n' "${stages[@]}" | xargs -P "${TEST_WORKERS:-2}" -I {} bash -c 'test_stage {}'
[ ! -s "$failed" ] || refuse "these failed: $(xargs <"$failed")"
printf 'all passed in %d:%02d minutes\n' $((SECONDS / 60)) $((SECONDS % 60))
