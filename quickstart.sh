#!/usr/bin/env bash
# The whole study, small but real, on a bare machine: no GPU, no hub. Trains a pocket base on the text of this
# machine's own Python, extends its context 4 times with every method, measures perplexity and passkey retrieval, draws
# the pictures.
#
#   bash quickstart.sh                     about twelve minutes on 2 cores; interrupted, run it again to go on
#   PYTHON=python3.12 bash quickstart.sh   with another interpreter
#   RUN=/some/folder bash quickstart.sh    results somewhere else than ./quickstart_run
#
# It calls the same scripts and launchers as the 8-GPU study, with pocket settings.
set -eu
cd "$(dirname "$0")"

original=128                                     # the base's window, tokens
extended=512                                     # the window to reach
trained="origin pi ntk yarn clex longlora landmark" # by finetune.sh
frozen="pi yarn ntk_frozen lm_infinite self_extend" # by extend.py, without training
lengths="64 128 256 512 1024 2048"               # evaluated: 1/2 to 16 times the original
windows="393 393 200 100 64 40"                  # of each length, about 50,000 tokens
needle_lengths="64 128 256 512 1024"             # the passkey is hidden in texts of 1/2 to 8 times the original

# pocket settings of single methods: for CLEX coarser steps of the solver, and a rate at which its network does not
# diverge (at 1e-3 it does); for Landmark blocks inside the small window
export FLAGS_clex="--max_factor 16 --time_dt 0.1 --learning_rate 5e-5"
export FLAGS_longlora="--low_rank_training True"
export FLAGS_landmark="--model_max_length 128 --per_device_train_batch_size 16 --mem_freq 15 --top_k 3"

run=../quickstart_run # as seen from the stages' folders
if [ -n "${RUN:-}" ]; then
  mkdir -p "$RUN" && run=$(cd "$RUN" && pwd)
  case $run in *' '*) echo "error: RUN=$RUN has a space in it; name a folder without" >&2 && exit 1 ;; esac
fi
figures=.
[ -z "${RUN:-}" ] || figures=$run
base=$run/base
rows=$run/rows_$extended
checkpoints=$run/ckpts

step() { printf '\n[%d:%02d] %s\n' $((SECONDS / 60)) $((SECONDS % 60)) "$1"; }
trap 'echo "stopped; the same command goes on from here" >&2; exit 130' INT TERM

step "environment"
. ./env.sh
prepare_environment
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
export JOBS=${JOBS:-2} # runs at a time, a core each: faster than one run on two cores
echo "$("$PYTHON" --version) in .venv"

cd continuous_finetuning
step "base: a Llama of 0.6 M parameters with a window of $original tokens"
"$PYTHON" make_base_model.py --output_dir "$base" --context_length $original --extension_length $extended

step "training data: rows of $extended tokens"
"$PYTHON" prepare_data.py --dataset "$base/data/corpus.jsonl" --tokenizer "$base" --length $extended \
  --source_column source --mix passkey=0.3,python=0.65,prose=0.05 --keep_short 1 --total_tokens $((1000 * extended)) \
  --output_dir "$rows" --workers 1

export BASE=$base OUTPUT_ROOT=$checkpoints RECIPE=pocket DATASET=$rows NPROC=1 DEEPSPEED= \
  BATCH_SIZE=4 GRADIENT_ACCUMULATION=1 LR=1e-3 LR_SCHEDULER=linear WARMUP_STEPS=10 EPOCHS=0.8 SAVE_STEPS=50 GRADIENT_CHECKPOINTING=False \
  BF16=False TF32=False USE_FLASH_ATTN=False REPORT_TO=none USE_WANDB=False
step "fine-tuning at $extended tokens: $trained"
METHODS=$trained LENGTHS=$extended bash finetune.sh

step "without training: $frozen"
evaluated=$base
for method in $trained; do evaluated+=" $checkpoints/pocket_${method}_$extended"; done
for method in $frozen; do
  output=$checkpoints/pocket_${method%_frozen}_frozen
  target=$extended
  [ "$method" != self_extend ] || target=${lengths##* } # its grouping is set for the longest text
  "$PYTHON" extend.py --model_name_or_path "$base" --method_name "$method" --model_max_length "$target" \
    --output_dir "$output"
  evaluated+=" $output"
done

cd ../eval_perplexity
step "perplexity at $lengths tokens"
CHECKPOINTS=$evaluated DATASETS=$base/data/heldout/test.bin LENGTHS=$lengths OUTPUT_ROOT=$run/results \
  bash eval.sh --trust_remote_code --max_windows $windows

cd ../needle
step "passkey retrieval at $needle_lengths tokens"
CHECKPOINTS=$evaluated LENGTHS=$needle_lengths OUTPUT_ROOT=$run/needle FIGURES=$run/fig \
  bash eval.sh --trust_remote_code --template passkey --depths 0 25 50 75 100 --trials 16 --max_new_tokens 5

cd ../fig
step "figure"
"$PYTHON" make_figures.py --results "$run/results" --output_dir "$figures"

cd ..
step "done"
cat <<EOF
This is the pocket study: stand-in data and a tiny model, an illustration of the pipeline and of the effects.
  picture      $(cd fig && cd "$figures" && pwd)/perplexity.png, and the table beside it as perplexity.csv
               ${run#../}/fig/needle.png, and the table beside it as needle.csv
  results      ${run#../}/results, one JSON file a model and length; ${run#../}/needle, one a model, length and depth
  checkpoints  ${run#../}/ckpts, plain Llama folders
The same scripts run the real study: continuous_finetuning/finetune.sh, then eval_perplexity/eval.sh (see README.md).
EOF
