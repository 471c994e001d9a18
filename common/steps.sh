# How a study starts, runs its steps and ends. Sourced by study.sh.
. common/settings.sh

absolute() { # PATH
  case $1 in /*) echo "$1" ;; *) echo "$PWD/${1#./}" ;; esac
}

local_path() { # NAME: an existing file or folder becomes absolute; anything else, such as a hub id, is unchanged
  if [ -e "$1" ]; then absolute "$1"; else echo "$1"; fi
}

load_settings() { # [--dry_run]: sets dry_run, run, base, dataset, rows_text; exports the preset to the launchers
  dry_run=$*
  [ -z "$dry_run" ] || [ "$dry_run" = --dry_run ] || refuse "unknown option '$*'; the only one is --dry_run"
  preset=${PRESET:-pocket}
  [[ $preset != */* && -f "presets/$preset.sh" ]] || refuse "no preset '$preset'; presets/ has $(cd presets && echo *.sh)"
  set -a
  . "presets/$preset.sh"
  : "${SEEDS=42}" "${BENCHMARKS=perplexity needle longbench trec ruler}" "${BASE=}" "${DATASET=}" "${TRAINED=}" "${FROZEN=}"
  : "${ROWS_TEXT=}" "${TABLE1=}" "${LONG_PPL=}" "${LONG_PPL_FLAGS=}" "${KV_SETS=}" "${ICL_SETS=}" "${SHORT_FLAGS=}"
  : "${TEXTS=}" "${PERPLEXITY_LENGTHS=}" "${NEEDLE_LENGTHS=}" "${LONGBENCH_SETS=}" "${TREC_SETS=}"
  : "${ROWS=}" "${RULER_BENCHMARK=synthetic}" "${RULER_LENGTHS=}" "${RULER_SAMPLES=}" "${RULER_TASKS=}" "${RULER_PREPARE_FLAGS=}"
  : "${PERPLEXITY_FLAGS=}" "${NEEDLE_FLAGS=}" "${LONGBENCH_FLAGS=}" "${STANDIN_FLAGS=}" "${RULER_FLAGS=}" "${ROWS_FLAGS=}"
  set +a
  check_study
  run=$(absolute "$RUN") base=$(local_path "$BASE")
  dataset=$(local_path "$DATASET") rows_text=$(local_path "$ROWS_TEXT")
  [[ $run$base$RECIPE != *[[:space:]]* ]] ||
    refuse "a space in RUN, BASE or RECIPE: '$run', '$base', '$RECIPE'; choose names without"
}

check_study() { # refuses settings without which the study cannot run
  local name benchmark known="perplexity long_ppl needle longbench trec kv icl ruler short"
  local needed="RUN RECIPE BASE EXTENDED SEEDS"
  for benchmark in $BENCHMARKS; do
    [[ " $known " == *" $benchmark "* ]] || refuse "BENCHMARKS: no '$benchmark'; there are: $known"
  done
  for benchmark in $TABLE1; do
    [[ " $known longbench_e " == *" $benchmark "* ]] || refuse "TABLE1: no '$benchmark'; there are: $known longbench_e"
  done
  for name in $TRAINED $FROZEN; do
    [ -f "continuous_finetuning/methods/$name.py" ] ||
      refuse "TRAINED, FROZEN: no method '$name'; continuous_finetuning/methods/ has one file for each"
  done
  if selected kv; then needed+=" KV_SETS"; fi
  if selected icl; then needed+=" ICL_SETS"; fi
  for name in $needed; do
    [ -n "${!name:-}" ] || refuse "$name is empty; set it, here or in presets/$preset.sh (study.sh says what it means)"
  done
  if [ -n "$TRAINED" ] && [ -z "$DATASET$ROWS_TEXT$ROWS" ]; then
    refuse "there are no rows to train on; set DATASET to rows, or ROWS_TEXT to a text to make them of"
  fi
  if selected perplexity || selected long_ppl; then
    [ -n "$TEXTS$ROWS" ] || refuse "TEXTS is empty; set it to token files that eval_perplexity/prepare_data.py made"
  fi
  check_settings
}

selected() { # BENCHMARK: whether the study runs it
  [[ " $BENCHMARKS " == *" $1 "* ]]
}

print_command() { # as it can be typed
  printf ' '
  printf ' %q' "$@"
  echo
}

setting() { # VARIABLE=VALUE...: exports them to all further steps
  export "$@"
  if [ -n "$dry_run" ]; then print_command export "$@"; fi
}

existing() { # BASE CHECKPOINT...: the base, and those of the others that could be made
  local checkpoint list=$1
  for checkpoint in "${@:2}"; do
    if [ -n "$dry_run" ] || [ -f "$checkpoint/config.json" ]; then list+=" $checkpoint"; fi
  done
  echo "$list"
}

start_study() { # prepares the environment, the folder, the lock and the variables of the machine
  failures=$run/failures.txt logs=$run/logs
  if [ -n "$dry_run" ]; then
    export PYTHON=$PWD/.venv/bin/python
  else
    { mkdir -p "$logs" && [ -w "$run" ] && [ -w "$logs" ]; } 2>/dev/null ||
      refuse "cannot write to $run; set RUN to another folder"
    . ./env.sh
    prepare_environment
    # everything that the study starts holds the lock, too
    [ "${LOCKED:-}" = "$run" ] || LOCKED=$run exec "$PYTHON" common/lock.py "$run/lock" bash study.sh
    : >"$failures"
    trap 'echo "stopped; rerun the same command to resume" >&2; exit 130' INT TERM
  fi
  local gpus
  gpus=$(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null) || gpus= # if it fails, it prints a message
  [ -z "$gpus" ] || gpus=${CUDA_VISIBLE_DEVICES-$gpus}
  gpus=${GPUS:-$gpus}
  gpus=(${gpus//,/ })
  echo "preset $preset; GPUs: ${gpus[*]:-none}; results in $run"
  [ -z "$dry_run" ] || echo "  set -a; . presets/$preset.sh; set +a"
  if [ ${#gpus[@]} -gt 0 ]; then # training takes all GPUs, evaluations run side by side, one process per GPU
    local ids=${gpus[*]}
    setting GPUS="$ids" CUDA_VISIBLE_DEVICES="${ids// /,}" NPROC="${NPROC:-${#gpus[@]}}" JOBS=1
  else # on a CPU, two processes side by side are faster than one on two cores
    setting NPROC="${NPROC:-1}" JOBS="${JOBS:-$(($(getconf _NPROCESSORS_ONLN) > 1 ? 2 : 1))}"
  fi
}

step() { # NAME TITLE FOLDER COMMAND...: runs it in a stage's folder; notes a failure in $run/failures.txt
  local name=$1 title=$2 folder=$3 log=$logs/$1.log status listed
  shift 3
  printf '\n[%d:%02d] %s\n' $((SECONDS / 60)) $((SECONDS % 60)) "$title"
  if [ -n "$dry_run" ]; then
    echo "  cd $folder"
    print_command "$@"
    return
  fi
  # a signal ends the command; tee continues until the command has printed its last line
  (cd "$folder" && "$@") </dev/null 2>&1 | (trap '' INT TERM HUP && exec tee "$log")
  status=${PIPESTATUS[0]}
  [ "$status" -ne 0 ] || return 0
  listed=$(grep -a '^failed: ' "$log") # a launcher ends with a line for everything that failed
  echo "${listed:-exit status $status, see logs/$name.log}" | sed "s/^failed: //; s/^/$name: /" >>"$failures"
  return 1
}

estimate() { # BASE VARIABLE=VALUE...: prints what fine-tuning with these variables needs on $MACHINE
  local machine=${MACHINE:-8xH100} shape=$PWD/presets/${1##*/}
  [ -f "$shape/config.json" ] || shape=$1 # a preset may have the base's config.json, so that the hub is not needed
  printf '\nfine-tuning on %s:\n' "$machine"
  if [ ! -x "$PYTHON" ]; then
    echo "no estimate: it needs .venv, which a run without --dry_run makes"
    return
  fi
  (cd continuous_finetuning &&
    env DS_ACCELERATOR=cpu "${@:2}" BASE="$shape" JOBS=1 ESTIMATE="$machine" bash finetune.sh)
}

end_study() { # FIGURES: prints where the results are, then what failed
  if [ -n "$dry_run" ]; then exit 0; fi
  printf '\n[%d:%02d] done\n' $((SECONDS / 60)) $((SECONDS % 60))
  if [ -f "$1/report.html" ]; then
    echo "  report       $1/report.html"
    echo "  table        $1/table1.md (also .tex); every number is in $1/results.csv"
  fi
  echo "  results      $run: results/ (perplexity), needle/, longbench/, ruler/, short/; logs/ has what was printed"
  echo "  checkpoints  $run/ckpts"
  list_failures
}

list_failures() { # exits with status 1 if there are any
  [ -s "$failures" ] || exit 0
  sed 's/^/failed: /' "$failures" >&2
  echo "rerun the same command to try these again; everything else is kept" >&2
  exit 1
}
