#!/usr/bin/env bash
# Measures everything that needs a GPU, in at most 8 minutes on one 80 GB card, and saves one Markdown report in
# benchmarks/results/. Needs no network, and only Python packages that are installed.
#
#   bash benchmarks/gpu.sh               7B-shaped models with random weights, bfloat16
#   bash benchmarks/gpu.sh --tiny        the same script with tiny models, for a CPU; keeps its report in RESULTS only
#   PARTS="speed training" bash benchmarks/gpu.sh      some parts: tests, methods, speed, training
#
# Each part has a time limit. A part that fails does not stop the others.
set -u
cd "$(dirname "$0")/.." || exit 1
python=${PYTHON:-python3}
export TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1 TRANSFORMERS_VERBOSITY=error

machine=$("$python" benchmarks/machine.py) || exit 1
results=${RESULTS:-benchmarks/results} patience=1
case $*,$machine in
  --tiny,*) results=${RESULTS:-$(mktemp -d)} patience=3 ;; # a CPU may be busy
  *,CPU*) echo "error: PyTorch finds no GPU; on a CPU run: bash benchmarks/gpu.sh --tiny" >&2 && exit 1 ;;
esac
failed=()

part() { # NAME TITLE SECONDS COMMAND...
  local name=$1 title=$2 limit=$(($3 * patience)) start=$SECONDS status
  shift 3
  case " ${PARTS:-$name} " in *" $name "*) ;; *) return ;; esac
  printf '\n## %s\n\n' "$title"
  timeout -k 10 "$limit" "$python" "$@"
  status=$?
  [ $status -ne 124 ] || echo "(stopped after $limit s)"
  printf '\n%d s\n' $((SECONDS - start))
  [ $status -eq 0 ] || failed+=("$title (exit status $status)")
}

report=$results/$(tr -cs 'A-Za-z0-9' _ <<<"${machine%%,*}")$(date +%Y-%m-%d).md
mkdir -p "$results" || exit 1
{
  printf '# GPU report, %s\n\n`bash benchmarks/gpu.sh %s`\n\n%s\n' "$(date +%Y-%m-%d)" "$*" "$machine"
  part tests "Tests that need a GPU" 45 -m pytest -q -rs -p no:cacheprovider -k gpu common
  part methods "Every method through every stage, tiny model" 185 benchmarks/gpu_methods.py "$@"
  part speed "Speed of the engine and of perplexity" 130 benchmarks/gpu_speed.py "$@"
  export PYTORCH_ALLOC_CONF=${PYTORCH_ALLOC_CONF:-expandable_segments:True} # long rows fragment a GPU's memory
  part training "Training steps, then the longest rows" 120 benchmarks/train_step.py "$@"
  [ ${#failed[@]} -eq 0 ] || printf 'failed or stopped: %s\n' "${failed[@]}"
  exit ${#failed[@]}
} | tee "$report"
status=${PIPESTATUS[0]}
echo "report: $report"
exit "$status"
