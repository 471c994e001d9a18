#!/usr/bin/env bash
# The study in one command: data, fine-tuning and extension, every evaluation, one table, its figures and the report.
#
#   bash study.sh                            the pocket study, on this machine alone (quickstart.sh is this)
#   PRESET=paper bash study.sh --dry_run     every command of the paper's study with time, memory and GPU-hours; runs none
#   PRESET=paper bash study.sh               runs it: presets/paper.sh has its settings, all of them variables
#   TRAINED="pi yarn" BENCHMARKS="perplexity ruler" SEEDS="1 2 3" PRESET=paper bash study.sh
#   BASE=my/llama EXTENDED=65536 DATASET=my_rows RECIPE=mine RUN=runs/mine PRESET=paper bash study.sh
#
# Killed at any moment, the same command goes on from there: every launcher below skips what is done. A step that fails
# is noted and the rest goes on; the failures stand at the end, in the report, and in $RUN/failures.txt.
set -u
cd "$(dirname "$0")" || exit 1
refuse() { echo "error: $*" >&2 && exit 1; }

preset=${PRESET:-pocket}
[ -f "presets/$preset.sh" ] || refuse "no preset '$preset'; there are: $(cd presets && echo *.sh | sed 's/\.sh//g')"
dry=
case "$*" in '') ;; --dry_run) dry=yes ;; *) refuse "unknown '$*'; the one flag is --dry_run, all else are variables" ;; esac
set -a # the launchers read these
. "./presets/$preset.sh"
set +a

# --- what is studied: edit a preset, or set these from the shell
trained=($TRAINED)           # methods fine-tuned by finetune.sh
frozen=($FROZEN)             # methods applied by extend.py without training
extended=($EXTENDED)         # windows to train, tokens
seeds=(${SEEDS:-42})         # of the fine-tuning; several: each trained method once for each
benchmarks=(${BENCHMARKS:-perplexity needle longbench trec ruler})
lengths=($LENGTHS)           # perplexity
needle_lengths=(${NEEDLE_LENGTHS:-})
ruler_lengths=($RULER_LENGTHS)

case $RUN in /*) run=$RUN ;; *) run=$PWD/$RUN ;; esac
[ -n "$dry" ] || mkdir -p "$run/logs" || refuse "cannot write to RUN=$RUN"
case $run in *' '*) refuse "the path $run has a space in it; name a folder without: RUN=/some/folder" ;; esac
failures=$run/failures.txt

gpus=0
if command -v nvidia-smi >/dev/null; then gpus=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU'); fi
cores=$(getconf _NPROCESSORS_ONLN)
if [ "$gpus" -gt 0 ]; then
  export NPROC=${NPROC:-$gpus}
  jobs=${JOBS:-$gpus} # evaluations at a time, a GPU each
  tune_jobs=1         # a fine-tuning takes all
else
  export NPROC=${NPROC:-1}
  jobs=${JOBS:-$((cores > 1 ? 2 : 1))} # a core each: faster than one run on two cores
  tune_jobs=$jobs
fi
[ -z "$dry" ] || jobs=1 # printed in order

say() { printf '\n[%d:%02d] %s\n' $((SECONDS / 60)) $((SECONDS % 60)) "$1"; }
trap 'echo "stopped; the same command goes on from here" >&2; exit 130' INT TERM

go() { # command: runs it, or in a dry run prints it
  [ -n "$dry" ] || { "$@" && return; return 1; }
  printf '  '
  printf '%q ' "$@"
  echo
}

step() { # name, title, folder, command: runs it there with its output in the log too, notes what failed
  local name=$1 title=$2 folder=$3 began=$SECONDS status
  shift 3
  if [ -n "$dry" ]; then
    title+=$(awk -v step="$name" '$1 == step && $2 > s { s = $2 } END { if (s) print " (took " s " s before)" }' "$run/logs/seconds.tsv" \
      2>/dev/null || awk -v step="$name" '$1 == step { print " (" $2 " s on 2 cores)" }' "presets/$preset.seconds" 2>/dev/null)
  fi
  say "$title"
  if [ -n "$dry" ]; then
    echo "  cd $folder"
    if [ "$(type -t "$1")" = function ]; then "$@"; else go "$@"; fi
    return 0
  fi
  (cd "$folder" && "$@") 2>&1 | tee "$run/logs/$name.log"
  status=${PIPESTATUS[0]}
  printf '%s\t%d\n' "$name" $((SECONDS - began)) >>"$run/logs/seconds.tsv"
  [ "$status" -eq 0 ] && return 0
  grep -a '^failed: ' "$run/logs/$name.log" | sed "s/^failed: /$name: /" >>"$failures"
  grep -qa '^failed: ' "$run/logs/$name.log" || echo "$name: status $status, see logs/$name.log" >>"$failures"
  return 1
}
needed() { step "$@" || refuse "without this step there is nothing to go on with: $(tail -n 1 "$failures")"; }

say "environment"
. ./env.sh
prepare_environment || exit 1
export TOKENIZERS_PARALLELISM=false
if [ -z "$dry" ]; then # all that is started below holds this lock, too; what a kill left at work has to end first
  exec 9>>"$run/lock"
  "$PYTHON" -c 'import fcntl
try: fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("an earlier run is still at work in this folder, or what a kill left of it; waiting for its end", flush=True)
    fcntl.flock(9, fcntl.LOCK_EX)
except OSError: pass # a file system without locks'
  : >"$failures"
fi
echo "$("$PYTHON" --version) in .venv; preset $preset; $gpus GPUs, $cores cores; results in $RUN"

# --- the base and the rows to train on
base=$BASE dataset=$DATASET
if [ -z "$base" ]; then
  export HF_HUB_OFFLINE=1
  base=$run/base
  needed base "base: a Llama of 0.6 M parameters with a window of $ORIGINAL tokens" continuous_finetuning \
    "$PYTHON" make_base_model.py --output_dir "$base" --context_length "$ORIGINAL" --extension_length "${extended[0]}"
fi
case $base in ./* | ../*) base=$(cd "$base" && pwd) || refuse "no folder BASE=$BASE" ;; esac
if [ -z "$dataset" ]; then
  dataset=$run/rows_${extended[0]}
  needed rows "training data: rows of ${extended[0]} tokens" continuous_finetuning \
    "$PYTHON" prepare_data.py --dataset "$base/data/corpus.jsonl" --tokenizer "$base" --length "${extended[0]}" \
    --source_column source --mix passkey=0.3,python=0.65,prose=0.05 --keep_short 1 \
    --total_tokens $((1000 * extended[0])) --output_dir "$dataset" --workers 1
fi

# --- the checkpoints
shape=$base # whose config.json the estimates read; of the study's own base it stands here, no hub needed
if [ "$base" = meta-llama/Llama-2-7b-hf ]; then shape=$PWD/presets/Llama-2-7b-hf; fi
machine=${MACHINE:-8xH100} # that a dry run estimates for
estimate_training() { # memory and hours of each run
  [ -f "$shape/config.json" ] || { echo "no estimate: $shape/config.json is not there (yet)" && return; }
  say "fine-tuning on $machine (estimated):"
  echo "| method | GPU memory of one, GiB | host memory of a node, GiB | steps | hours | GPU-hours |"
  echo "|---|---|---|---|---|---|"
  cd continuous_finetuning && BASE=$shape ESTIMATE=$machine METHODS="${trained[*]}" LENGTHS="${extended[*]}" JOBS=1 \
    bash finetune.sh 2>/dev/null | awk -v gpus="${machine%%x*}" '
      /^\+/ { match($0, /--method_name [a-z_]+/); method = substr($0, RSTART + 14, RLENGTH - 14); n = 0 }
      $1 == "together" { memory[n++] = $2 }
      $1 == "steps" { sub(",$", "", $2); steps = $2 }
      $1 == "hours" { print "| " method " | " memory[0] " | " memory[1] " | " steps " | " $2 " | " $2 * gpus " |" }'
}
checkpoints=$run/ckpts evaluated=$base
for seed in "${seeds[@]}"; do
  recipe=$RECIPE
  [ ${#seeds[@]} -eq 1 ] || recipe=${RECIPE}_seed$seed
  if [ ${#trained[@]} -gt 0 ]; then
    if [ -n "$dry" ]; then (estimate_training) || :; fi
    step "finetune_$seed" "fine-tuning at ${extended[*]} tokens, seed $seed: ${trained[*]}" continuous_finetuning \
      env BASE="$base" DATASET="$dataset" RECIPE="$recipe" OUTPUT_ROOT="$checkpoints" METHODS="${trained[*]}" LENGTHS="${extended[*]}" \
      JOBS="$tune_jobs" bash finetune.sh --seed "$seed"
  fi
  for length in "${extended[@]}"; do
    for method in ${trained[@]+"${trained[@]}"}; do evaluated+=" $checkpoints/${recipe}_${method}_$length"; done
  done
done
extend_all() {
  local method output target status=0
  for method in ${frozen[@]+"${frozen[@]}"}; do
    target=${extended[0]}
    [ "$method" != self_extend ] || target=${lengths[${#lengths[@]}-1]} # its grouping is set for the longest text
    go "$PYTHON" extend.py --model_name_or_path "$base" --method_name "$method" --model_max_length "$target" \
      --output_dir "$checkpoints/${RECIPE}_${method%_frozen}_frozen" || { echo "failed: $method" && status=1; }
  done
  return $status
}
if [ ${#frozen[@]} -gt 0 ]; then
  step extend "without training: ${frozen[*]}" continuous_finetuning extend_all
  for method in "${frozen[@]}"; do evaluated+=" $checkpoints/${RECIPE}_${method%_frozen}_frozen"; done
fi

# --- the evaluations, each of all checkpoints; what could not be made is named by the step before
made=
for checkpoint in $evaluated; do
  if [ -n "$dry" ] || [ -f "$checkpoint/config.json" ] || [ "$checkpoint" = "$base" ]; then made+=" $checkpoint"; fi
done
export CHECKPOINTS=${made# } JOBS=$jobs
if [ "$gpus" -gt 0 ] && [ "$jobs" -gt 1 ]; then
  visible=${CUDA_VISIBLE_DEVICES:-$(seq -s ' ' 0 $((gpus - 1)))}
  export GPUS=${visible//,/ }
fi
unset NPROC # from here each evaluation has one process
if [ -n "$dry" ]; then printf '\n  export JOBS=%s CHECKPOINTS=%q\n' "$jobs" "$CHECKPOINTS"; fi

has() { case " ${benchmarks[*]} " in *" $1 "*) return 0 ;; esac; return 1; }

if [ -z "$TEXTS" ]; then TEXTS=$base/data/heldout/test.bin; fi
if has perplexity; then
  for text in $TEXTS; do
    [ -f "eval_perplexity/$text" ] || [ -f "$text" ] || [ -n "$dry" ] || case $text in
      data/pg19/*) step pg19 "texts: PG19" eval_perplexity \
        "$PYTHON" prepare_data.py --dataset pg19 --tokenizer "$base" --output "$text" ;;
      data/proof_file/*) step proof_pile "texts: Proof-pile" eval_perplexity \
        "$PYTHON" prepare_data.py --dataset proof-pile --tokenizer "$base" --min_tokens 32768 --max_documents 128 \
        --output "$text" ;;
    esac
  done
  step perplexity "perplexity at ${lengths[*]} tokens" eval_perplexity \
    env DATASETS="$TEXTS" LENGTHS="${lengths[*]}" OUTPUT_ROOT="$run/results" \
    bash eval.sh --trust_remote_code $PERPLEXITY_FLAGS
fi

if has needle; then
  step needle "needle in a haystack" needle \
    env LENGTHS="${needle_lengths[*]-}" OUTPUT_ROOT="$run/needle" FIGURES="$run/needle/img" \
    bash eval.sh --trust_remote_code $NEEDLE_FLAGS
fi

sets=
if has longbench; then sets+=" $LONGBENCH_SETS"; fi
if has trec; then sets+=" $TREC_SETS"; fi
if [ -n "$sets" ]; then
  if [ -n "$STANDIN_FLAGS" ]; then
    if [ -z "$BASE" ]; then STANDIN_FLAGS+=" --exclude $base/data/corpus.jsonl"; fi # code that the base was trained on
    step standins "stand-in sets for LongBench and many-shot TREC" longbench \
      "$PYTHON" make_standin.py --output_dir "$run/longbench_data" $STANDIN_FLAGS
    LONGBENCH_FLAGS+=" --data_dir $run/longbench_data"
  fi
  step longbench "LongBench and many-shot TREC: $(echo $sets)" longbench \
    env DATASETS="$sets" OUTPUT_ROOT="$run/longbench" bash eval.sh --trust_remote_code $LONGBENCH_FLAGS
fi

ruler_share() { # worker
  local number=0 checkpoint gpu_list=(${GPUS:-})
  if [ ${#gpu_list[@]} -gt 0 ]; then export CUDA_VISIBLE_DEVICES=${gpu_list[$1]}; fi
  for checkpoint in $CHECKPOINTS; do
    if [ $((number % jobs)) -eq "$1" ]; then
      go env -u GPUS bash run.sh "$checkpoint" synthetic --trust_remote_code || echo "failed: $checkpoint"
    fi
    number=$((number + 1))
  done
}
ruler_all() {
  local job
  if [ "$jobs" -gt 1 ] && [ "$gpus" -eq 0 ]; then # the jobs share the cores, as in the other launchers
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores / jobs > 0 ? cores / jobs : 1))}
  fi
  for ((job = 0; job < jobs; job++)); do ruler_share "$job" & done
  wait
  go bash eval.sh
}
if has ruler; then
  export SEQ_LENGTHS="${ruler_lengths[*]}" NUM_SAMPLES=$RULER_SAMPLES TASKS=$RULER_TASKS ROOT_DIR=$run/ruler
  step ruler "RULER at ${ruler_lengths[*]} tokens" ruler ruler_all
fi

# --- the table, the figures, the report
figures=${FIGURES:-$run/fig}
case $figures in /*) ;; *) figures=$PWD/$figures ;; esac
step figures "table, figures, report" fig \
  "$PYTHON" make_figures.py --results "$run" --output_dir "$figures" --checkpoints "$checkpoints" --failures "$failures"

if [ -n "$dry" ]; then
  [ -f "$shape/config.json" ] || { echo "no estimate: $shape/config.json is not there (yet)" && exit 0; }
  say "evaluations on $machine (estimated):"
  costs=(--config "$shape/config.json" --checkpoints "$(echo "$evaluated" | wc -w)" --window "${extended[0]}")
  costs+=(--gpu "$(echo "$machine" | sed -E 's/^[0-9]+x([A-Z0-9]+).*/\1/')" --texts "$(echo "$TEXTS" | wc -w)")
  has perplexity && costs+=(--perplexity "${lengths[@]}")
  has needle && costs+=(--needle ${needle_lengths[@]+"${needle_lengths[@]}"})
  has longbench && costs+=(--longbench)
  has trec && costs+=(--trec)
  has ruler && costs+=(--ruler "${ruler_lengths[@]}" --ruler_samples "$RULER_SAMPLES")
  exec "$PYTHON" study_costs.py "${costs[@]}"
fi
say "done"
cat <<EOF
  report       $figures/report.html, one file: all that follows, with what it rests on
  table        $figures/table1.md (also .tex, .csv); every number in $figures/results.csv
  results      $RUN: results/ (perplexity), needle/, longbench/, ruler/; logs/ holds what was printed
  checkpoints  $RUN/ckpts, ordinary Hugging Face folders
EOF
if [ -s "$failures" ]; then
  sed 's/^/failed: /' "$failures" >&2
  echo "the same command tries again what failed; all else is kept" >&2
  exit 1
fi
