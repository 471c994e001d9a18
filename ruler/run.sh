#!/usr/bin/env bash
# RULER for one model: makes the data, asks the model, scores its answers, at every length and task.
#
#   bash run.sh MODEL_NAME synthetic      an entry of config_models.sh, or a checkpoint folder or hub id without entry
#   SEQ_LENGTHS="4096 8192" NUM_SAMPLES=100 bash run.sh ../ckpts/my_model synthetic
#   TASKS="vt cwe" bash run.sh MODEL_NAME synthetic --trust_remote_code     further flags go to pred/call_api.py
#   NPROC=8 bash run.sh MODEL_NAME synthetic                      the prompts on 8 GPUs, each with the whole model
#   MODEL_FRAMEWORK=vllm GPUS=2 bash run.sh CKPT synthetic        vLLM, the model on 2 GPUs together
#   MODEL_FRAMEWORK=openai TOKENIZER_PATH=CKPT bash run.sh SERVED_NAME synthetic --server_host http://localhost:8000/v1
#   PREPARE_FLAGS="--squad dev-v2.0.json" bash run.sh ...         flags of data/prepare.py
#
# Then eval.sh prints one table of all models. Relative paths start in this folder. Run it again after a crash: what is
# there is kept, the rest is made. Data made for one model serve all with the same tokenizer (links to DATA_ROOT).
#
#   ROOT_DIR/<model>/<benchmark>/<length>/data/<task>/validation.jsonl     and pred/<task>.jsonl, pred/summary.csv, ...
set -u
cd "$(dirname "$0")" || exit 1
fail() { echo "error: $*" >&2 && exit 1; }

[ $# -ge 2 ] || fail "usage: bash run.sh MODEL_NAME synthetic [flags of pred/call_api.py]"
model=$1 benchmark=$2
shift 2

GPUS=${GPUS:-1}               # of one model in vLLM
NPROC=${NPROC:-1}             # processes with Transformers, a GPU each
BATCH_SIZE=${BATCH_SIZE:-}    # most prompts at a time with Transformers; none: what memory allows, up to 16
ROOT_DIR=${ROOT_DIR:-results} # of all results
DATA_ROOT=${DATA_ROOT:-$ROOT_DIR/.data}
MODEL_DIR=${MODEL_DIR:-../continuous_finetuning/ckpts/llama2-7b-hf-slimpajama}
ENGINE_DIR=${ENGINE_DIR:-.}
PREPARE_FLAGS=${PREPARE_FLAGS:-}
python=${PYTHON:-python}

# --- which model
MODEL_PATH='' TOKENIZER_PATH=${TOKENIZER_PATH:-} TOKENIZER_TYPE=${TOKENIZER_TYPE:-}
MODEL_TEMPLATE_TYPE=${MODEL_TEMPLATE_TYPE:-base} MODEL_FRAMEWORK=${MODEL_FRAMEWORK:-hf}
. ./config_models.sh
. ./config_tasks.sh
name=$model # of the folder of results
MODEL_SELECT "$model" "$MODEL_DIR" "$ENGINE_DIR"
if [ -z "$MODEL_PATH" ]; then
  name=$(basename "$model")
  if [ -f "$model/config.json" ]; then
    MODEL_PATH=$model
  elif [ -f "$MODEL_DIR/$model/config.json" ]; then
    MODEL_PATH=$MODEL_DIR/$model
  elif [ "$MODEL_FRAMEWORK" = openai ]; then
    MODEL_PATH=$model # the server's name for it
    [ -n "$TOKENIZER_PATH" ] || fail "MODEL_FRAMEWORK=openai needs TOKENIZER_PATH, a folder or hub id, to size the data"
  else
    case $model in
      */*/* | /* | .* | */) fail "no checkpoint in $model (no config.json)" ;;
      */*) MODEL_PATH=$model ;; # a hub id
      *)
        known=$(sed -n 's/^ *\([A-Za-z0-9._-]*\))$/\1/p' config_models.sh | tr '\n' ' ')
        fail "no model $model; config_models.sh knows ${known}- or give a checkpoint folder"
        ;;
    esac
  fi
fi
case $MODEL_FRAMEWORK in
  hf | vllm | openai) ;;
  *) fail "MODEL_FRAMEWORK $MODEL_FRAMEWORK is not supported: hf, vllm, or openai for any compatible server" ;;
esac
case $name in */* | .* | '') fail "'$name' cannot name a folder of results; give it an entry in config_models.sh" ;; esac
TOKENIZER_PATH=${TOKENIZER_PATH:-$MODEL_PATH}
TOKENIZER_TYPE=${TOKENIZER_TYPE:-hf}

# --- which tasks
case $benchmark in
  '' | *[!A-Za-z0-9_]*) fail "no benchmark '$benchmark' in config_tasks.sh; RULER's is synthetic" ;;
esac
array="$benchmark[*]"
tasks=$(IFS=, && echo "${!array-}")
[ -n "$tasks" ] || fail "no benchmark '$benchmark' in config_tasks.sh; RULER's is synthetic"

run() {
  printf '+'
  printf ' %q' "$@"
  echo
  "$@"
}

root=$ROOT_DIR/$name/$benchmark
data=() saved=()
for length in "${SEQ_LENGTHS[@]}"; do
  data+=("$root/$length/data")
  saved+=("$root/$length/pred")
done

# --- the data
prepare=("$python" data/prepare.py --save_dir "$root/{length}/data" --benchmark "$benchmark" --task "$tasks"
  --tokenizer_path "$TOKENIZER_PATH" --tokenizer_type "$TOKENIZER_TYPE" --max_seq_length "${SEQ_LENGTHS[@]}"
  --num_samples "$NUM_SAMPLES" --model_template_type "$MODEL_TEMPLATE_TYPE" --shared_dir "$DATA_ROOT")
[ "$REMOVE_NEWLINE_TAB" = false ] || prepare+=(--remove_newline_tab)
run "${prepare[@]}" $PREPARE_FLAGS || exit 1

# --- the answers; lengths beyond what the model declares are part of the study
call=("$python")
[ "$NPROC" -eq 1 ] || call+=(-m torch.distributed.run --standalone "--nproc_per_node=$NPROC")
call+=(pred/call_api.py --data_dir "${data[@]}" --save_dir "${saved[@]}" --max_seq_length "${SEQ_LENGTHS[@]}"
  --benchmark "$benchmark" --task "$tasks" --server_type "$MODEL_FRAMEWORK" --model_name_or_path "$MODEL_PATH"
  --model_name "$name" --temperature "$TEMPERATURE" --top_k "$TOP_K" --top_p "$TOP_P" --allow_beyond)
[ "$MODEL_FRAMEWORK" != vllm ] || call+=(--tensor_parallel_size "$GPUS")
[ -z "$STOP_WORDS" ] || call+=(--stop_words "$STOP_WORDS")
[ -z "$BATCH_SIZE" ] || call+=(--batch_size "$BATCH_SIZE")
run "${call[@]}" "$@"
status=$?

# --- the scores, of what is there also after a failure
for folder in "${saved[@]}"; do
  [ "$status" -eq 0 ] || [ -d "$folder" ] || exit "$status"
done
run "$python" eval/evaluate.py --data_dir "${saved[@]}" --benchmark "$benchmark" || [ "$status" -ne 0 ] || status=1
exit "$status"
