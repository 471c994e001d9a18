#!/usr/bin/env bash
# Everything that a GPU has to show, in one run of at most 8 minutes on one 80 GB card; prints one Markdown report and
# saves it in benchmarks/results/. Needs no network, and only Python packages that are installed.
#
#   bash benchmarks/gpu.sh               a GPU: 7B-shaped models with random weights, bfloat16
#   bash benchmarks/gpu.sh --tiny        a CPU, in under 3 minutes: the same script on tiny models
#   PARTS="speed training" bash benchmarks/gpu.sh      some parts: tests, methods, speed, training, zero3
#
# Each part has a time limit, and none that fails stops the others.
set -u
cd "$(dirname "$0")/.." || exit 1
python=${PYTHON:-python3}
tiny=
case "$*" in '') ;; --tiny) tiny=--tiny ;; *) echo "error: the one flag is --tiny, not '$*'" >&2 && exit 1 ;; esac
export TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1 TRANSFORMERS_VERBOSITY=error

card=$("$python" -c 'import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU")') || exit 1
if [ "$card" = CPU ] && [ -z "$tiny" ]; then
  echo "error: PyTorch finds no GPU; on a CPU run: bash benchmarks/gpu.sh --tiny" >&2
  exit 1
fi
results=${RESULTS:-benchmarks/results}
[ -z "$tiny" ] || results=${RESULTS:-$(mktemp -d)} # nothing to keep
name=$(echo "$card" | tr -cs 'A-Za-z0-9' _)$(date +%Y-%m-%d)
report=$results/$name.md
mkdir -p "$results" && : >"$report" || exit 1
failed=()

say() { tee -a "$report"; }
part() { # name, title, seconds, command: its output goes to the report; what it writes to stderr goes to the terminal
  local title=$2 limit=$3 began=$SECONDS status
  case " ${PARTS:-$1} " in *" $1 "*) ;; *) return ;; esac
  [ -z "$tiny" ] || limit=$((3 * limit)) # a busy CPU is no reason to fail
  shift 3
  printf '\n## %s\n\n' "$title" | say
  timeout -k 10 "$limit" "$@" | say
  status=${PIPESTATUS[0]}
  [ "$status" -ne 124 ] || echo "(stopped after $limit s)" | say
  printf '\n%d s\n' $((SECONDS - began)) | say
  [ "$status" -eq 0 ] || failed+=("$title (exit status $status)")
}

{
  echo "# GPU report"
  echo
  echo "$card, $(date '+%Y-%m-%d'), \`bash benchmarks/gpu.sh${tiny:+ $tiny}\`"
  echo
  "$python" benchmarks/gpu_versions.py
} | say

part tests "Tests that need a GPU" 45 "$python" -m pytest -q -rs -p no:cacheprovider -k gpu common
part methods "Every method through every stage, tiny model" 120 "$python" benchmarks/gpu_methods.py $tiny
part speed "Speed of the engine and of perplexity" 120 "$python" benchmarks/gpu_speed.py decode prefill perplexity own_attention $tiny
part training "Training steps, then the longest rows" 130 "$python" benchmarks/train_step.py --plan gpu longest $tiny
part zero3 "DeepSpeed ZeRO-3 with offload, tiny model" 80 "$python" benchmarks/gpu_methods.py --zero3 $tiny

if [ ${#failed[@]} -gt 0 ]; then
  printf 'failed or stopped: %s\n' "${failed[@]}" | say
  exit 1
fi
echo "all parts finished; report: $report"
