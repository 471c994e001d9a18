#!/usr/bin/env bash
# Fine-tunes the base with every method at every length below, by the recipe of the study.
#
#   bash finetune.sh                                  8 GPUs, Llama-2-7B, 32k, DeepSpeed ZeRO-3 with offload
#   ESTIMATE=8xH100 bash finetune.sh                  memory, steps and hours of each run; starts nothing
#   NPROC=1 DEEPSPEED= BASE=... bash finetune.sh      one GPU, or a CPU
#   METHODS="pi yarn" LENGTHS=65536 bash finetune.sh --seed 1     further flags go to fine-tune.py
#   METHODS=longlora bash finetune.sh --low_rank_training True    LongLoRA as in the study: LoRA, embeddings, norms
#   METHODS="pi clex" FLAGS_clex="--max_factor 16" bash finetune.sh            flags of one method among several
#   METHODS="pi yarn" bash finetune.sh --pose True                PoSE: rows are cut to the base's window and stand for 32k
#   METHODS=landmark LENGTHS=512 bash finetune.sh                 Landmark trains in blocks; longer rows are cut
#   LENGTHS=131072 SEQUENCE_PARALLEL=4 bash finetune.sh           4 GPUs share each row
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=node1 bash finetune.sh       on each of two nodes; in SLURM: finetune.slurm
#
# Rerun it to resume: finished models are skipped, an unfinished one continues from its last checkpoint. After SIGTERM
# or Ctrl-C the runs write a checkpoint, and the launcher exits with status 143.
set -u
cd "$(dirname "$0")" || exit 1
if [ -n "${GPUS:-}" ]; then export CUDA_VISIBLE_DEVICES=${GPUS// /,}; fi # a run uses NPROC of these
NPROC=${NPROC:-8} GPUS=
. ./pool.sh # JOBS: runs side by side, for a small model on a CPU

methods=(${METHODS:-origin pi ntk yarn})
lengths=(${LENGTHS:-32768}) # context windows to train, tokens

base=${BASE:-meta-llama/Llama-2-7b-hf}
dataset=${DATASET:-Leooyii/Slimpajama_downsample_32k_1B} # rows must have the length that is trained
recipe=${RECIPE:-llama2-7b-hf-slimpajama}
output_root=${OUTPUT_ROOT:-ckpts/$recipe} # with several nodes: a folder that all of them see

nnodes=${NNODES:-${SLURM_NNODES:-1}}
node_rank=${NODE_RANK:-${SLURM_NODEID:-0}}
master_port=${MASTER_PORT:-29500}                     # of the first run; the next ones take the ports after it
deepspeed=${DEEPSPEED-ds_configs/stage3_offload.json} # empty: without DeepSpeed
sequence_parallel=${SEQUENCE_PARALLEL:-1}             # GPUs that share a row
estimate=${ESTIMATE:-}                                # 8xH100, 16xA100-80, ...: only print what the runs need

# rows of one optimizer step, over all GPUs; LCEG's scripts: 8 GPUs x 1 row x 32 accumulated; the paper's Table 7: 32
global_batch=${GLOBAL_BATCH:-256}
batch_size=${BATCH_SIZE:-1} # rows that a GPU has at a time
ranks=$((nproc * nnodes))
if [ -n "$estimate" ]; then ranks=${estimate%%x*}; fi
rows=$((batch_size * ranks / sequence_parallel))
accumulation=${GRADIENT_ACCUMULATION:-$((global_batch / (rows > 0 ? rows : 1)))}
if [ -z "${GRADIENT_ACCUMULATION:-}" ] && [ $((accumulation * rows)) -ne "$global_batch" ]; then
  refuse "GLOBAL_BATCH=$global_batch is not a multiple of the $rows rows that $ranks GPUs have at a time"
fi

if [ -n "$estimate" ]; then
  launch=("$python")
elif [ "$nnodes" -gt 1 ]; then
  master_addr=${MASTER_ADDR:-$(scontrol show hostnames "${SLURM_JOB_NODELIST:-}" 2>/dev/null | head -n 1)}
  [ -n "$master_addr" ] || refuse "NNODES > 1 needs MASTER_ADDR, the name of the node with NODE_RANK=0"
  launch=("$python" -m torch.distributed.run "--nnodes=$nnodes" "--node_rank=$node_rank" "--nproc_per_node=$nproc"
    "--master_addr=$master_addr")
fi
# after SIGTERM torchrun gives its ranks so many seconds to end their step and write a checkpoint, then kills them
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-3600}

flags=(
  --model_name_or_path "$base"
  --dataset_dir "$dataset"
  --bf16 "${BF16:-True}"
  --tf32 "${TF32:-True}"
  --use_flash_attn "${USE_FLASH_ATTN:-True}"
  --num_train_epochs "${EPOCHS:-1}"
  --per_device_train_batch_size "$batch_size"
  --gradient_accumulation_steps "$accumulation"
  --sequence_parallel_size "$sequence_parallel"
  --gradient_checkpointing "${GRADIENT_CHECKPOINTING:-True}"
  --offload_activations "${OFFLOAD_ACTIVATIONS:-False}"
  --tiled_mlp "${TILED_MLP:-False}"
  --save_steps "${SAVE_STEPS:-20}" # a crash costs at most so many steps
  --save_total_limit 1
  --learning_rate "${LR:-2e-5}"
  --weight_decay 0.0
  --warmup_steps "${WARMUP_STEPS:-20}"
  --lr_scheduler_type "${LR_SCHEDULER:-constant_with_warmup}"
  --report_to "${REPORT_TO:-wandb}"
  --use_wandb "${USE_WANDB:-True}"
  ${deepspeed:+--deepspeed "$deepspeed"}
  ${estimate:+--estimate "$estimate"}
  ${MAX_STEPS:+--max_steps "$MAX_STEPS"}
)
user_flags=("$@")
evaluate() { # "method length" ...: trains them one after the other
  local item method length name method_flags
  for item in "$@"; do
    if [ -n "$stopped" ]; then return; fi
    read -r method length <<<"$item"
    name=${recipe}_${method}_$length method_flags=FLAGS_$method
    run "${launch[@]}" ${master_addr:+--master_port=$((master_port++))} fine-tune.py --method_name "$method" \
      --model_max_length "$length" --output_dir "$output_root/$name" --wandb_name "$name" "${flags[@]}" \
      ${!method_flags:-} ${user_flags[@]+"${user_flags[@]}"} || [ -n "$stopped" ] || echo "$item" >>"$failures"
  done
}

runs=()
for length in "${lengths[@]}"; do
  for method in "${methods[@]}"; do runs+=("$method $length"); done
done
pool "${runs[@]}"
finish
