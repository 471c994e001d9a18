#!/usr/bin/env bash
# RULER: makes the data, answers the prompts, scores the answers, at every length and task.
#
#   bash run.sh MODEL [MODEL ...] synthetic [flags of pred/call_api.py]
#   bash run.sh llama2-7b-hf synthetic                                a name of config_models.sh
#   SEQ_LENGTHS="4096 8192" NUM_SAMPLES=100 bash run.sh CKPT_A CKPT_B synthetic --trust_remote_code
#   CHECKPOINTS="a b" TASKS="vt cwe" bash run.sh synthetic            checkpoint folders or hub ids
#   GPUS="0 1 2 3" bash run.sh A B C D synthetic                      a process per GPU, each for its share of the models
#   JOBS=2 bash run.sh A B synthetic                                  two processes (small models on a CPU)
#   NPROC=8 bash run.sh A synthetic                                   8 GPUs share the prompts of each model
#   MODEL_FRAMEWORK=vllm TENSOR_PARALLEL=2 bash run.sh A synthetic    vLLM, each model on 2 GPUs
#   MODEL_FRAMEWORK=openai TOKENIZER_PATH=CKPT bash run.sh SERVED_NAME synthetic --server_host http://localhost:8000/v1
#   PREPARE_FLAGS="--profile lceg" bash run.sh ...                    flags of data/prepare.py
#
# Then eval.sh prints one table of all models. Paths are relative to this folder. Rerun the same command to resume.
#
#   ROOT_DIR/<model>/<benchmark>/<length>/data/<task>/validation.jsonl     and pred/<task>.jsonl, pred/summary.csv, ...
set -u
cd "$(dirname "$0")" || exit 1
. ./pool.sh
. ./config_tasks.sh

ROOT_DIR=${ROOT_DIR:-results}
MODEL_DIR=${MODEL_DIR:-../continuous_finetuning/ckpts/llama2-7b-hf-slimpajama}
framework=${MODEL_FRAMEWORK:-} tokenizer=${TOKENIZER_PATH:-} # the user's, before those of config_models.sh
. ./config_models.sh

# --- the models, the benchmark and the flags
words=()
while [ $# -gt 0 ] && [[ $1 != -* ]]; do
  words+=("$1")
  shift
done
if [ ${#words[@]} -eq 1 ]; then words=(${CHECKPOINTS:-} "${words[@]}"); fi
[ ${#words[@]} -ge 2 ] || refuse "usage: bash run.sh MODEL [MODEL ...] synthetic [flags of pred/call_api.py]"
models=("${words[@]:0:${#words[@]}-1}") benchmark=${words[${#words[@]}-1]} flags=("$@")
check '[A-Za-z_][A-Za-z0-9_]*' "the name of a benchmark of config_tasks.sh" benchmark
array="$benchmark[*]"
tasks=$(IFS=, && echo "${!array-}")
[ -n "$tasks" ] || refuse "no benchmark '$benchmark' in config_tasks.sh; the last word before the flags names it"

select_model() { # model: sets MODEL_PATH, TOKENIZER_PATH, framework (the same for all) and the name of its results
  MODEL_PATH='' TOKENIZER_PATH='' MODEL_FRAMEWORK='' name=$1
  MODEL_SELECT "$1" "$MODEL_DIR"
  if [ -z "$MODEL_PATH" ]; then
    MODEL_PATH=$1
    [ -d "$1" ] || [ ! -d "$MODEL_DIR/$1" ] || MODEL_PATH=$MODEL_DIR/$1
    [ ! -d "$MODEL_PATH" ] || name=$(cd "$MODEL_PATH" && pwd -P)
    name=$(result_name "$name")
  fi
  framework=${framework:-${MODEL_FRAMEWORK:-hf}}
  TOKENIZER_PATH=${tokenizer:-${TOKENIZER_PATH:-$MODEL_PATH}}
}

# --- the data
names=() tokenizers=()
for model in "${models[@]}"; do
  select_model "$model"
  names+=("$name") tokenizers+=("$TOKENIZER_PATH")
done
folder="$ROOT_DIR/{model}/$benchmark/{length}"
run "$python" data/prepare.py --save_dir "$folder/data" --benchmark "$benchmark" --task "$tasks" \
  --model_name "${names[@]}" --tokenizer_path "${tokenizers[@]}" --max_seq_length "${SEQ_LENGTHS[@]}" \
  --num_samples "$NUM_SAMPLES" ${PREPARE_FLAGS:-} || [ ${#models[@]} -gt 1 ] || exit 1

# --- the answers
evaluate() { # models
  local model names=() paths=()
  for model in "$@"; do
    select_model "$model"
    names+=("$name") paths+=("$MODEL_PATH")
  done
  run "${launch[@]}" pred/call_api.py --data_dir "$folder/data" --save_dir "$folder/pred" \
    --benchmark "$benchmark" --task "$tasks" --max_seq_length "${SEQ_LENGTHS[@]}" --model_name "${names[@]}" \
    --model_name_or_path "${paths[@]}" --server_type "$framework" --batch_size "${EVAL_BATCH_SIZE:-16}" \
    --tensor_parallel_size "${TENSOR_PARALLEL:-1}" ${flags[@]+"${flags[@]}"}
}
pool "${models[@]}"

# --- the scores, of all answers that are there
folders=()
for name in "${names[@]}"; do
  for length in "${SEQ_LENGTHS[@]}"; do
    pred=$ROOT_DIR/$name/$benchmark/$length/pred
    if [ -d "$pred" ]; then folders+=("$pred"); fi
  done
done
if [ ${#folders[@]} -gt 0 ]; then
  run "$python" eval/evaluate.py --data_dir "${folders[@]}" --benchmark "$benchmark" || echo scores >>"$failures"
fi
finish
