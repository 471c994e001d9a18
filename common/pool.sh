# Shares work among GPUs or cores. Sourced by the launchers, which define `evaluate ITEM...` and call `pool ITEM...`.
#
#   NPROC=8            one process at a time, of 8 ranks (torchrun): a GPU each
#   GPUS="0 1 2 3"     four processes side by side, one on each of these GPUs ("0,1 2,3": two GPUs each)
#   JOBS=2             two processes side by side (small models on a CPU)
. ./settings.sh
check_settings

python=${PYTHON:-python}
nproc=${NPROC:-1}
gpus=(${GPUS:-})
jobs=${JOBS:-1}
if [ ${#gpus[@]} -gt 0 ]; then jobs=${#gpus[@]}; fi

launch=("$python") # the command of a process begins with this
if [ "$nproc" -gt 1 ]; then launch+=(-m torch.distributed.run --standalone "--nproc_per_node=$nproc"); fi
if [ "$jobs" -gt 1 ]; then # side by side, the processes share the cores
  threads=$(($(getconf _NPROCESSORS_ONLN) / (jobs * nproc)))
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}
fi

run() { # COMMAND: prints it and runs it
  echo "+ $*"
  "$@"
}

worker() { # NUMBER ITEM...: evaluates items number, number + jobs, ...
  local number=$1 item items=()
  for ((item = number + 2; item <= $#; item += jobs)); do items+=("${!item}"); done
  [ ${#items[@]} -gt 0 ] || return 0
  if [ ${#gpus[@]} -gt 0 ]; then export CUDA_VISIBLE_DEVICES=${gpus[$number]}; fi
  if evaluate "${items[@]}" || [ -n "$stopped" ]; then return; fi
  for item in "${items[@]}"; do # each alone: finished ones are skipped, and one that fails does not stop the others
    if [ -n "$stopped" ]; then return; fi
    if [ ${#items[@]} -eq 1 ] || ! evaluate "$item"; then echo "$item" >>"$failures"; fi
  done
}

result_name() { # CHECKPOINT: what its results are called (run.checkpoint_name in Python)
  local path=${1%/}
  local name=${path##*/} folder=${path%/*}
  if [[ $name =~ ^checkpoint-[0-9]+$ ]]; then name=${folder##*/}_$name; fi
  echo "$name"
}

pool() { # ITEM...: evaluates all of them; `finish` lists those that failed
  local number item twice
  twice=$(for item in "$@"; do result_name "$item"; done | sort | uniq -d | xargs)
  if [ -n "$twice" ]; then refuse "several checkpoints are called $twice; their results would replace each other"; fi
  trap stop INT TERM HUP
  for ((number = 0; number < jobs && number < $#; number++)); do
    (trap '' INT && trap 'stopped=yes' TERM && worker "$number" "$@") & # only `stop` ends it, not Ctrl-C itself
  done
  wait
}

stop() { # on Ctrl-C or SIGTERM: ends the processes; training writes a checkpoint first
  trap '' INT TERM HUP
  kill -TERM 0
  wait
  echo "stopped; rerun the same command to resume" >&2
  exit 143
}

finish() { # the end of a launcher: lists what failed, exits with 1 if anything did
  [ -s "$failures" ] || exit 0
  sed 's/^/failed: /' "$failures" >&2
  exit 1
}

stopped= # set in a worker after SIGTERM
failures=$(mktemp)
trap 'rm -f "$failures"' EXIT
