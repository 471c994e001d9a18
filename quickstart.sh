#!/usr/bin/env bash
# The whole study, small but real, on a bare machine: no GPU, no hub. Trains a pocket base on the text of this
# machine's own Python, extends its context 4 times with every method, measures perplexity, draws the picture.
#
#   bash quickstart.sh                     about ten minutes on 2 cores; interrupted, run it again to go on
#   PYTHON=python3.12 bash quickstart.sh   with another interpreter
#   RUN=/some/folder bash quickstart.sh    results somewhere else than ./quickstart_run
#
# It calls the same scripts and launchers as the 8-GPU study, with pocket settings.
set -eu
cd "$(dirname "$0")"
RUN=${RUN:-quickstart_run}
mkdir -p "$RUN"
RUN=$(cd "$RUN" && pwd)
ORIGINAL=128                        # the base's window, tokens
EXTENDED=512                        # the window to reach
LENGTHS="64 128 256 512 1024 2048"  # evaluated: 1/2 to 16 times the original
TRAINED="origin pi ntk yarn"        # by finetune.sh
FROZEN="pi ntk_frozen yarn"         # by extend.py, without training

started=$SECONDS
step() { printf '\n[%d:%02d] %s\n' $(((SECONDS - started) / 60)) $(((SECONDS - started) % 60)) "$1"; }
trap 'echo; echo "stopped; the same command goes on from here" >&2; exit 130' INT TERM

step "environment"
. ./env.sh
prepare_environment
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
export OUTPUT_ROOT=$RUN/ckpts RECIPE=pocket BASE=$RUN/base
echo "$("$PYTHON" --version) in .venv, results in $RUN"

step "base: a 0.6 M parameter Llama, $ORIGINAL tokens of context"
"$PYTHON" continuous_finetuning/make_base_model.py --output_dir "$BASE" \
  --context_length $ORIGINAL --extension_length $EXTENDED

step "fine-tuning at $EXTENDED tokens: $TRAINED"
METHODS=$TRAINED LENGTHS=$EXTENDED DATASET=$BASE/data/train_$EXTENDED.parquet NPROC=1 DEEPSPEED= \
  BATCH_SIZE=4 GRADIENT_ACCUMULATION=1 LR=2e-3 WARMUP_STEPS=10 SAVE_STEPS=50 GRADIENT_CHECKPOINTING=False \
  BF16=False TF32=False USE_FLASH_ATTN=False REPORT_TO=none USE_WANDB=False \
  bash continuous_finetuning/finetune.sh

step "the same methods without training: $FROZEN"
for method in $FROZEN; do
  "$PYTHON" continuous_finetuning/extend.py --model_name_or_path "$BASE" --method_name "$method" \
    --model_max_length $EXTENDED --output_dir "$OUTPUT_ROOT/pocket_${method%_frozen}_frozen"
done

step "perplexity at $LENGTHS tokens"
checkpoints=$BASE
for method in $TRAINED; do checkpoints+=" $OUTPUT_ROOT/pocket_${method}_$EXTENDED"; done
for method in $FROZEN; do checkpoints+=" $OUTPUT_ROOT/pocket_${method%_frozen}_frozen"; done
CHECKPOINTS=$checkpoints DATASETS=$BASE/data/heldout/test.bin LENGTHS=$LENGTHS RESULTS=$RUN/results \
  bash eval_perplexity/eval.sh

step "figure"
"$PYTHON" fig/make_figures.py --results "$RUN/results" --output_dir "$RUN"

step "done"
cat <<EOF
This is the pocket study: stand-in data and a tiny model, an illustration of the pipeline and of the effects.
  picture      $RUN/perplexity.png
  table        $RUN/perplexity.csv
  results      $RUN/results
  checkpoints  $OUTPUT_ROOT (plain Llama folders; python -c "from transformers import AutoModelForCausalLM as A; A.from_pretrained('...')")
The same scripts run the real study: continuous_finetuning/finetune.sh, then eval_perplexity/eval.sh (README.md).
EOF
