#!/usr/bin/env bash
# Fine-tunes the base with every method at every length below; the recipe of the study unless told otherwise.
#
#   bash finetune.sh                                  8 GPUs, Llama-2-7B, 32k, DeepSpeed ZeRO-3 with offload
#   ESTIMATE=8xH100 bash finetune.sh                  memory, steps and hours of each run, nothing is started
#   NPROC=1 DEEPSPEED= BASE=... bash finetune.sh      one GPU, or a CPU
#   METHODS="pi yarn" LENGTHS=65536 bash finetune.sh --seed 1     further flags go to fine-tune.py
#   METHODS=longlora bash finetune.sh --low_rank_training True    LongLoRA as in the study: LoRA, embeddings, norms
#   METHODS="pi clex" FLAGS_clex="--max_factor 16" bash finetune.sh            flags of one method among several
#   METHODS=landmark LENGTHS=512 bash finetune.sh                 Landmark trains in blocks; longer rows are cut
#   LENGTHS=131072 SEQUENCE_PARALLEL=4 bash finetune.sh           rows shared by 4 GPUs each
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=node1 bash finetune.sh       on each of two nodes; in SLURM: finetune.slurm
#
# Run it again after a crash: finished models are skipped, the unfinished one goes on from its last checkpoint.
# SIGTERM and Ctrl-C let the runs write a checkpoint at the end of their step; then all ends with status 143.
set -u
cd "$(dirname "$0")" || exit 1

methods=(${METHODS:-origin pi ntk yarn})
lengths=(${LENGTHS:-32768}) # context windows to train, tokens

base=${BASE:-meta-llama/Llama-2-7b-hf}
dataset=${DATASET:-Leooyii/Slimpajama_downsample_32k_1B} # rows must have the length that is trained
recipe=${RECIPE:-llama2-7b-hf-slimpajama}
output_root=${OUTPUT_ROOT:-ckpts/$recipe} # on many nodes: a folder that all of them see
python=${PYTHON:-python}

nproc=${NPROC:-8} # GPUs of a node
nnodes=${NNODES:-${SLURM_NNODES:-1}}
node_rank=${NODE_RANK:-${SLURM_NODEID:-0}}
master_addr=${MASTER_ADDR:-}        # the node of rank 0 [SLURM's first]
master_port=${MASTER_PORT:-29500}   # run number i takes this port + i
deepspeed=${DEEPSPEED-ds_configs/stage3_offload.json} # empty: without DeepSpeed
sequence_parallel=${SEQUENCE_PARALLEL:-1}             # GPUs that share a row
offload_activations=${OFFLOAD_ACTIVATIONS:-False}
tiled_mlp=${TILED_MLP:-False}
estimate=${ESTIMATE:-} # 8xH100, 16xA100-80, ...: only print what the runs need

# rows of one optimizer step, over all GPUs. LCEG's scripts: 8 GPUs x 1 row x 32 accumulated = 256; its paper's Table 7
# says 32
global_batch=${GLOBAL_BATCH:-256}
batch_size=${BATCH_SIZE:-1} # rows that a GPU has at a time
epochs=${EPOCHS:-1}
lr=${LR:-2e-5}
warmup_steps=${WARMUP_STEPS:-20}
lr_scheduler=${LR_SCHEDULER:-constant_with_warmup}
weight_decay=${WEIGHT_DECAY:-0.0}
document_mask=${DOCUMENT_MASK:-False} # True: attention stays inside the documents of a row
bf16=${BF16:-True}
tf32=${TF32:-True}
use_flash_attn=${USE_FLASH_ATTN:-True}
gradient_checkpointing=${GRADIENT_CHECKPOINTING:-True}
save_steps=${SAVE_STEPS:-20} # a crash costs at most so many steps
save_total_limit=${SAVE_TOTAL_LIMIT:-1}
report_to=${REPORT_TO:-wandb}
use_wandb=${USE_WANDB:-True}

jobs=${JOBS:-1} # runs at a time: 2 on a laptop's CPU with a small model

refuse() { echo "error: $*" >&2 && exit 1; }

ranks=$((nproc * nnodes))
if [[ $estimate =~ ^([1-9][0-9]*)x ]]; then ranks=${BASH_REMATCH[1]}; fi
if [ $((ranks % sequence_parallel)) -ne 0 ]; then
  refuse "SEQUENCE_PARALLEL=$sequence_parallel does not divide the $ranks GPUs"
fi
rows=$((batch_size * ranks / sequence_parallel)) # that the GPUs have at a time, together
accumulation=${GRADIENT_ACCUMULATION:-$((global_batch / rows))}
if [ -z "${GRADIENT_ACCUMULATION:-}" ] && [ $((accumulation * rows)) -ne "$global_batch" ]; then
  refuse "GLOBAL_BATCH=$global_batch is no multiple of the $rows rows that $ranks GPUs have at a time (BATCH_SIZE" \
    "$batch_size, SEQUENCE_PARALLEL $sequence_parallel); give one that is"
fi
if [ "$nnodes" -gt 1 ] && [ -z "$estimate" ]; then
  if [ "$jobs" -gt 1 ]; then refuse "JOBS=$jobs: on many nodes the runs go one after the other"; fi
  if [ -z "$master_addr" ] && [ -n "${SLURM_JOB_NODELIST:-}" ]; then
    master_addr=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
  fi
  if [ -z "$master_addr" ]; then refuse "NNODES=$nnodes needs MASTER_ADDR, the name of the node with NODE_RANK=0"; fi
fi
if [ "$jobs" -gt 1 ]; then # the jobs share the cores
  threads=$(($(getconf _NPROCESSORS_ONLN) / (jobs * nproc)))
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}
fi
# after SIGTERM torchrun gives its ranks so many seconds to end their step and write a checkpoint, then kills them
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-3600}

running= stopped=
stop() { # passes the first signal on, as SIGTERM
  if [ -z "$stopped" ] && [ -n "$running" ]; then kill -TERM $running 2>/dev/null; fi
  stopped=yes
}

run() { # command: in the background, so that a signal is heard at once
  local status
  set -m # in a process group of its own: Ctrl-C reaches it through `stop` only
  "$@" </dev/null &
  set +m
  running=$!
  if [ -n "$stopped" ]; then kill -TERM $running; fi # the signal came just before
  while :; do # a signal ends `wait`, not the run
    wait $running
    status=$?
    kill -0 $running 2>/dev/null || break
  done
  running=
  return $status
}

finetune() { # number method length [flags]
  local number=$1 method=$2 length=$3
  local name=${recipe}_${method}_${length} own=FLAGS_$method
  shift 3
  local launch=("$python")
  if [ -n "$estimate" ]; then
    : # one process, here
  elif [ "$nnodes" -gt 1 ]; then
    launch+=(-m torch.distributed.run "--nnodes=$nnodes" "--node_rank=$node_rank" "--nproc_per_node=$nproc"
      "--master_addr=$master_addr" "--master_port=$((master_port + number))")
  elif [ "$nproc" -gt 1 ]; then
    launch+=(-m torch.distributed.run "--nproc_per_node=$nproc")
  fi
  local command=(
    "${launch[@]}" fine-tune.py
    --model_name_or_path "$base"
    --bf16 "$bf16"
    --output_dir "$output_root/$name"
    --model_max_length "$length"
    --use_flash_attn "$use_flash_attn"
    --low_rank_training False
    --num_train_epochs "$epochs"
    --per_device_train_batch_size "$batch_size"
    --gradient_accumulation_steps "$accumulation"
    --sequence_parallel_size "$sequence_parallel"
    --offload_activations "$offload_activations"
    --tiled_mlp "$tiled_mlp"
    --document_mask "$document_mask"
    --evaluation_strategy no
    --save_strategy steps
    --save_steps "$save_steps"
    --save_total_limit "$save_total_limit"
    --learning_rate "$lr"
    --weight_decay "$weight_decay"
    --warmup_steps "$warmup_steps"
    --lr_scheduler_type "$lr_scheduler"
    --logging_steps 1
    --tf32 "$tf32"
    --gradient_checkpointing "$gradient_checkpointing"
    --report_to "$report_to"
    --use_wandb "$use_wandb"
    --wandb_name "$name"
    --dataset_dir "$dataset"
    --method_name "$method"
    ${deepspeed:+--deepspeed "$deepspeed"}
    ${estimate:+--estimate "$estimate"}
    ${!own:-}
    "$@"
  )
  echo "+ ${command[*]}"
  run "${command[@]}" || [ -n "$stopped" ] || echo "$method $length" >>"$failures"
}

share() { # job [flags]: run number job, job + jobs, ...
  local job=$1 number=0 length method
  shift
  for length in "${lengths[@]}"; do
    for method in "${methods[@]}"; do
      if [ -z "$stopped" ] && [ $((number % jobs)) -eq "$job" ]; then finetune $number "$method" "$length" "$@"; fi
      number=$((number + 1))
    done
  done
}

failures=$(mktemp)
trap 'rm -f "$failures"' EXIT
trap stop INT TERM HUP
if [ "$jobs" -eq 1 ]; then
  share 0 "$@"
else
  for ((job = 0; job < jobs; job++)); do
    (
      trap - EXIT
      trap stop INT TERM HUP
      running=
      share "$job" "$@"
    ) &
    running+=" $!"
  done
  for job in $running; do
    while kill -0 "$job" 2>/dev/null; do wait "$job"; done
  done
fi

if [ -s "$failures" ]; then sed 's/^/failed: /' "$failures" >&2; fi
if [ -n "$stopped" ]; then
  echo "stopped; the same command goes on from the last checkpoint" >&2
  exit 143
fi
[ ! -s "$failures" ]
