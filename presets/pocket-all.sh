# The pocket study with every method of the kit, and LongPPL beside perplexity.
: "${RUN=runs/pocket_all}"
: "${TRAINED=origin pi ntk abf yarn llama3 longrope clex longlora drope landmark}"
: "${FROZEN=ntk_frozen lm_infinite streaming self_extend rerope string dca}"
: "${FLAGS_drope=--per_device_train_batch_size 4}"          # rows of the base's window
: "${FLAGS_string=--model_max_length 504 --longest_text 504}" # as far as its positions stay in the base's window
: "${BENCHMARKS=perplexity long_ppl needle longbench trec kv icl ruler short}"
: "${TABLE1=perplexity long_ppl needle trec icl longbench ruler}" # kv is too hard: so small a model copies no UUID
: "${LONGBENCH_FLAGS=--max_new_tokens 34}" # room for kv's answer, a UUID
: "${LONG_PPL=$RUN/ckpts/pocket_ntk_1024}" "${LONG_PPL_FLAGS=--short_context 128 --short_stride 32}"
. presets/pocket.sh
