# The base of the pocket study inside its own window: what its card, continuous_finetuning/pocket_base/README.md, reports.
: "${RUN=runs/pocket_base}" "${TRAINED=}" "${FROZEN=}"
: "${PERPLEXITY_LENGTHS=256}" "${PERPLEXITY_FLAGS=--batch_size 8 --max_windows 200}"
: "${NEEDLE_LENGTHS=256}" "${NEEDLE_FLAGS=--template passkey --depths 0 25 50 75 100 --trials 40 --max_new_tokens 5}"
: "${STANDIN_FLAGS=--sets qasper multifieldqa_en lcc repobench-p passage_retrieval_en --words 40 --rows 100 --shots 6 --classes 4}"
: "${TREC_SETS=standin_trec_6shots}" "${LONGBENCH_FLAGS=--max_new_tokens 12}"
: "${RULER_BENCHMARK=pocket}" "${RULER_LENGTHS=256}" "${RULER_SAMPLES=50}"
: "${RULER_TASKS=niah_single_1 niah_single_2 niah_single_3 niah_multikey_1 niah_multikey_2 niah_multivalue niah_multiquery fwe qa_1}"
. presets/pocket.sh
