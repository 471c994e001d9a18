#!/usr/bin/env bash
# Fine-tunes the base with every method at every length below; the recipe of the study unless told otherwise.
#
#   bash finetune.sh                                  8 GPUs, Llama-2-7B, 32k, DeepSpeed ZeRO-3 with offload
#   NPROC=1 DEEPSPEED= BASE=... bash finetune.sh      one GPU, or a CPU
#   METHODS="pi yarn" LENGTHS=65536 bash finetune.sh --seed 1     further flags go to fine-tune.py
#   METHODS=longlora bash finetune.sh --low_rank_training True    LongLoRA as in the study: LoRA, embeddings, norms
#   METHODS="pi clex" FLAGS_clex="--max_factor 16" bash finetune.sh            flags of one method among several
#   METHODS=clex DEEPSPEED= bash finetune.sh                      CLEX does not train under ZeRO stage 3
#   METHODS=landmark LENGTHS=512 bash finetune.sh                 Landmark trains in blocks; longer rows are cut
#
# Run it again after a crash: finished models are skipped, the unfinished one goes on from its last checkpoint.
set -u
cd "$(dirname "$0")" || exit 1

methods=(${METHODS:-origin pi ntk yarn})
lengths=(${LENGTHS:-32768}) # context windows to train, tokens

base=${BASE:-meta-llama/Llama-2-7b-hf}
dataset=${DATASET:-Leooyii/Slimpajama_downsample_32k_1B} # rows must have the length that is trained
recipe=${RECIPE:-llama2-7b-hf-slimpajama}
output_root=${OUTPUT_ROOT:-ckpts/$recipe}
python=${PYTHON:-python}

nproc=${NPROC:-8}
deepspeed=${DEEPSPEED-ds_configs/stage3_offload.json} # empty: without DeepSpeed

# LCEG's recipe: 8 processes x 1 row x 32 = 256 rows a step (the paper's Table 7 says 32)
batch_size=${BATCH_SIZE:-1}
gradient_accumulation=${GRADIENT_ACCUMULATION:-32}
epochs=${EPOCHS:-1}
lr=${LR:-2e-5}
warmup_steps=${WARMUP_STEPS:-20}
lr_scheduler=${LR_SCHEDULER:-constant_with_warmup}
weight_decay=${WEIGHT_DECAY:-0.0}
bf16=${BF16:-True}
tf32=${TF32:-True}
use_flash_attn=${USE_FLASH_ATTN:-True}
gradient_checkpointing=${GRADIENT_CHECKPOINTING:-True}
save_steps=${SAVE_STEPS:-20} # a crash costs at most so many steps
save_total_limit=${SAVE_TOTAL_LIMIT:-1}
report_to=${REPORT_TO:-wandb}
use_wandb=${USE_WANDB:-True}

jobs=${JOBS:-1} # runs at a time: 2 on a laptop's CPU with a small model

if [ "$nproc" -gt 1 ]; then
  launch=("$python" -m torch.distributed.run "--nproc_per_node=$nproc")
else
  launch=("$python")
fi
if [ "$jobs" -gt 1 ]; then # the jobs share the cores
  threads=$(($(getconf _NPROCESSORS_ONLN) / (jobs * nproc)))
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}
fi

finetune() { # method length [flags]
  local method=$1 length=$2
  local name=${recipe}_${method}_${length} own=FLAGS_$method
  shift 2
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
    --gradient_accumulation_steps "$gradient_accumulation"
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
    ${!own:-}
    "$@"
  )
  echo "+ ${command[*]}"
  "${command[@]}" || echo "$method $length" >>"$failures"
}

share() { # job [flags]: run number job, job + jobs, ...
  local job=$1 number=0 length method
  shift
  for length in "${lengths[@]}"; do
    for method in "${methods[@]}"; do
      if [ $((number % jobs)) -eq "$job" ]; then finetune "$method" "$length" "$@"; fi
      number=$((number + 1))
    done
  done
}

failures=$(mktemp)
trap 'rm -f "$failures"' EXIT
if [ "$jobs" -eq 1 ]; then
  share 0 "$@"
else
  trap 'trap - TERM; kill 0' INT TERM # jobs in the background do not hear Ctrl-C
  for ((job = 0; job < jobs; job++)); do share "$job" "$@" & done
  wait
fi

if [ -s "$failures" ]; then
  sed 's/^/failed: /' "$failures" >&2
  exit 1
fi
