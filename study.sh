#!/usr/bin/env bash
# A study in one command: training data, fine-tuning, every evaluation, and one table with figures and a report.
#
#   bash study.sh                           the pocket study, on this machine alone (quickstart.sh runs this)
#   PRESET=paper bash study.sh --dry_run    prints every command and what the training needs; starts nothing
#   PRESET=paper bash study.sh              runs the study of presets/paper.sh
#   TRAINED="pi yarn" BENCHMARKS="perplexity ruler" SEEDS="1 2 3" PRESET=paper bash study.sh
#   BASE=my/llama EXTENDED=65536 DATASET=my_rows RECIPE=mine RUN=runs/mine PRESET=paper bash study.sh
#
# Rerun the same command to resume: the launchers skip what is done. A step that fails does not stop the others; the
# failures are listed at the end, in the report and in $RUN/failures.txt. $RUN/logs has the output of every step.
#
# Settings are variables; a preset gives their defaults:
#   PRESET, RUN           file in presets/ [pocket]; folder for everything that the study writes
#   BASE, DATASET         base model and training rows, folders or hub ids
#   ROWS_TEXT, ROWS_FLAGS without DATASET: text to make rows of, hub id or files; flags of prepare_data.py for it
#   ROWS                  without either: number of rows to make from the pocket study's tasks and text
#   TRAINED, FROZEN       methods to fine-tune, and methods to apply without training
#   EXTENDED              lengths to train, tokens; the first one is also the target without training
#   RECIPE, SEEDS         prefix of the checkpoints' names; seeds of the fine-tuning [42]
#   FLAGS_<method>        flags of one method; FLAGS_<method>_frozen: untrained, if it is also trained
#   BATCH_SIZE, LR, ...   and all other variables of finetune.sh
#   BENCHMARKS            [perplexity needle longbench trec ruler]; also long_ppl kv icl short
#   TABLE1                benchmarks in Table 1 and the correlations, longbench_e too [the paper's five]
#   PERPLEXITY_LENGTHS, NEEDLE_LENGTHS, RULER_LENGTHS        tokens; no NEEDLE_LENGTHS: the paper's 40
#   TEXTS                 token files, paths from eval_perplexity/; empty: the pocket study's held-out text
#   LONG_PPL              checkpoint that finds the key tokens of long_ppl [the first that is trained, else the base]
#   LONGBENCH_SETS, TREC_SETS, KV_SETS, ICL_SETS   such as standin_kv_400pairs, standin_icl_100shots
#   RULER_TASKS, RULER_SAMPLES, RULER_BENCHMARK   no RULER_TASKS: all 13; file of tasks in ruler/ [synthetic]
#   PERPLEXITY_FLAGS, NEEDLE_FLAGS, LONGBENCH_FLAGS, RULER_FLAGS, RULER_PREPARE_FLAGS, EVAL_BATCH_SIZE;
#                         paths in flags are relative to the stage's folder
#   LONG_PPL_FLAGS, SHORT_FLAGS   of eval_ppl.py and of eval_short.py
#   STANDIN_FLAGS         of make_standin.py, such as --sets --shots --pairs 400 --icl_shots 100; empty: official sets
#   FIGURES               folder for the table, the figures and the report [$RUN/fig]
#   NPROC, GPUS, JOBS     training processes [one per GPU]; GPU ids [all]; processes side by side on a CPU [2]
#   MACHINE               machine for which the dry run estimates the training [8xH100]
set -u
cd "$(dirname "$0")" || exit 1
. common/steps.sh
load_settings "$@"
ckpts=$run/ckpts
read -r window _ <<<"$EXTENDED"
longest=$(printf '%s\n' $PERPLEXITY_LENGTHS | sort -n | tail -n 1)
modeling=../continuous_finetuning/modeling # seen from every stage; the only modeling code that a study trusts
start_study

# --- the training rows, and the pocket study's data
data=
if [ -n "$ROWS" ] && { [ -z "$dataset$ROWS_TEXT" ] || [ -z "$TEXTS" ]; }; then
  data=$run/data
  step data "documents to train on, and held-out text" continuous_finetuning \
    "$PYTHON" make_pocket_data.py --tokenizer "$base" --length "$window" --rows "$ROWS" --output_dir "$data" ||
    list_failures
fi
if [ -z "$dataset" ] && [ -n "$TRAINED" ]; then
  dataset=$run/rows_$window
  step rows "training data: rows of $window tokens" continuous_finetuning \
    "$PYTHON" prepare_data.py --dataset "${rows_text:-$data/corpus.jsonl}" --tokenizer "$base" --length "$window" \
    --output_dir "$dataset" $ROWS_FLAGS ${ROWS:+--total_tokens $((ROWS * window))} || list_failures
fi
if [ -z "$TEXTS" ] && { selected perplexity || selected long_ppl; }; then
  TEXTS=$data/heldout/text.bin
  step heldout "texts: sources of Python that the base has not seen" eval_perplexity \
    "$PYTHON" prepare_data.py --dataset "$data/heldout.jsonl" --standin --tokenizer "$base" --output "$TEXTS" \
    --min_tokens "$longest" --max_documents 16
fi

# --- the checkpoints
checkpoints=("$base")
for seed in ${TRAINED:+$SEEDS}; do
  recipe=$RECIPE
  if [ "$seed" != "$SEEDS" ]; then recipe=${RECIPE}_seed$seed; fi
  training=(METHODS="$TRAINED" LENGTHS="$EXTENDED" BASE="$base" DATASET="$dataset" RECIPE="$recipe" OUTPUT_ROOT="$ckpts")
  step "finetune_$seed" "fine-tuning at $EXTENDED tokens, seed $seed: $TRAINED" continuous_finetuning \
    env "${training[@]}" bash finetune.sh --seed "$seed"
  for length in $EXTENDED; do for method in $TRAINED; do checkpoints+=("$ckpts/${recipe}_${method}_$length"); done; done
done
if [ -n "$dry_run" ] && [ -n "$TRAINED" ]; then estimate "$base" "${training[@]}"; fi
if [ -n "$FROZEN" ]; then
  step extend "without training: $FROZEN" continuous_finetuning \
    env METHODS="$FROZEN" TARGET="$window" LONGEST_TEXT="$longest" BASE="$base" RECIPE="$RECIPE" \
    OUTPUT_ROOT="$ckpts" bash extend.sh
  for method in $FROZEN; do checkpoints+=("$ckpts/${RECIPE}_${method%_frozen}_frozen"); done
fi

# --- the evaluations of all checkpoints that could be made
setting NPROC=1 CHECKPOINTS="$(existing "${checkpoints[@]}")"
if selected long_ppl; then
  PERPLEXITY_FLAGS+=" --long_ppl $(local_path "${LONG_PPL:-${checkpoints[1]:-$base}}") $LONG_PPL_FLAGS"
fi
if selected perplexity || selected long_ppl; then
  for text in $TEXTS; do # the paper's two come from the hub
    if [ -e "eval_perplexity/$text" ]; then continue; fi
    case $text in
      data*/pg19/test.bin) step pg19 "texts: PG19" eval_perplexity \
        "$PYTHON" prepare_data.py --dataset pg19 --tokenizer "$base" --output "$text" ;;
      data*/proof_file/test_sampled_data.bin) step proof_pile "texts: Proof-pile" eval_perplexity \
        "$PYTHON" prepare_data.py --dataset proof-pile --tokenizer "$base" --output "$text" \
        --min_tokens 32768 --max_documents 128 ;;
    esac
  done
  step perplexity "perplexity at $PERPLEXITY_LENGTHS tokens" eval_perplexity \
    env DATASETS="$TEXTS" LENGTHS="$PERPLEXITY_LENGTHS" OUTPUT_ROOT="$run/results" \
    bash eval.sh --trust_remote_code "$modeling" $PERPLEXITY_FLAGS
fi

if selected needle; then
  step needle "needle in a haystack" needle \
    env LENGTHS="$NEEDLE_LENGTHS" OUTPUT_ROOT="$run/needle" FIGURES="$run/needle/img" \
    bash eval.sh --trust_remote_code "$modeling" $NEEDLE_FLAGS
fi

sets=
if selected longbench; then sets=$LONGBENCH_SETS; fi
if selected trec; then sets+=" $TREC_SETS"; fi
if selected kv; then sets+=" $KV_SETS"; fi
if selected icl; then sets+=" $ICL_SETS"; fi
if [ -n "$sets" ] && [ -n "$STANDIN_FLAGS" ]; then
  LONGBENCH_FLAGS+=" --data_dir $run/longbench_data"
  step standins "generated sets for LongBench, many-shot TREC, kv and icl" longbench \
    "$PYTHON" make_standin.py --output_dir "$run/longbench_data" $STANDIN_FLAGS
fi
if [ -n "$sets" ]; then
  step longbench "sets of the longbench stage: $sets" longbench \
    env DATASETS="$sets" OUTPUT_ROOT="$run/longbench" \
    bash eval.sh --trust_remote_code "$modeling" $LONGBENCH_FLAGS
fi

if selected ruler; then
  ruler=(SEQ_LENGTHS="$RULER_LENGTHS" NUM_SAMPLES="$RULER_SAMPLES" TASKS="$RULER_TASKS" ROOT_DIR="$run/ruler" BENCHMARK="$RULER_BENCHMARK")
  step ruler "RULER at $RULER_LENGTHS tokens" ruler \
    env "${ruler[@]}" PREPARE_FLAGS="$RULER_PREPARE_FLAGS" \
    bash run.sh "$RULER_BENCHMARK" --trust_remote_code "$modeling" $RULER_FLAGS
  step ruler_table "RULER: the table of all models" ruler env "${ruler[@]}" bash eval.sh
fi

if selected short; then
  step short "short tasks, and their changes from the base" eval_perplexity \
    env OUTPUT_ROOT="$run/short" bash eval_short.sh --trust_remote_code "$modeling" --perplexity "$run/results" \
    ${data:+--include_path "$data/short"} $SHORT_FLAGS
fi

# --- the table, the figures and the report
figures=$(absolute "${FIGURES:-$run/fig}")
step figures "table, figures, report" fig \
  "$PYTHON" make_figures.py --results "$run" --output_dir "$figures" --checkpoints "$ckpts" --failures "$failures" \
  ${TABLE1:+--columns $TABLE1}
end_study "$figures"
