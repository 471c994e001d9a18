# The pocket study: needs nothing but this machine. A Llama of 0.6 M parameters is trained on the text of this machine's
# own Python, then extended 4 times. Stand-in data and a tiny model: it illustrates the pipeline and the effects.
[ -n "${RUN:-}" ] || : "${FIGURES=fig}"
: "${RUN=quickstart_run}" "${RECIPE=pocket}"
: "${BASE=}" "${DATASET=}"            # empty: made by make_base_model.py and prepare_data.py
: "${ORIGINAL=128}" "${EXTENDED=512}" # tokens: the window of that base, and the window to reach
: "${TRAINED=origin pi ntk yarn clex longlora landmark}" "${FROZEN=ntk_frozen lm_infinite self_extend}"

# fine-tuning: 200 steps, one process per core
: "${NPROC=1}" "${DEEPSPEED=}" "${BATCH_SIZE=4}" "${GRADIENT_ACCUMULATION=1}" "${LR=1e-3}" "${LR_SCHEDULER=linear}"
: "${WARMUP_STEPS=10}" "${EPOCHS=0.8}" "${SAVE_STEPS=50}" "${GRADIENT_CHECKPOINTING=False}" "${BF16=False}" "${TF32=False}"
: "${USE_FLASH_ATTN=False}" "${REPORT_TO=none}" "${USE_WANDB=False}"
# CLEX: coarser solver steps, and a learning rate at which its network converges (at 1e-3 it diverges)
: "${FLAGS_clex=--max_factor 16 --time_dt 0.1 --learning_rate 5e-5}"
: "${FLAGS_longlora=--low_rank_training True}"
# Landmark: blocks that fit into the small window
: "${FLAGS_landmark=--model_max_length 128 --per_device_train_batch_size 16 --mem_freq 15 --top_k 3}"

# evaluation
: "${PERPLEXITY_LENGTHS=64 128 256 512 1024 2048}" # 1/2 to 16 times the base's window
: "${PERPLEXITY_FLAGS=--batch_size 4 --max_windows 200 200 100 50 32 20}" # about 25,000 tokens for each length
: "${NEEDLE_LENGTHS=64 128 256 512 1024}"
: "${NEEDLE_FLAGS=--template passkey --depths 0 25 50 75 100 --trials 16 --max_new_tokens 5}"
: "${STANDIN_FLAGS=--sets qasper multifieldqa_en lcc repobench-p passage_retrieval_en --words 45 --rows 24 --shots 1 2 4 8 12 --classes 2}"
: "${LONGBENCH_SETS=standin_qasper standin_multifieldqa_en standin_lcc standin_repobench-p standin_passage_retrieval_en}"
: "${TREC_SETS=standin_trec_1shots standin_trec_2shots standin_trec_4shots standin_trec_8shots standin_trec_12shots}"
: "${LONGBENCH_FLAGS=--max_new_tokens 12}"
: "${RULER_LENGTHS=512 1024}" "${RULER_SAMPLES=6}" "${RULER_PREPARE_FLAGS=--tokens_to_generate 12}" "${RULER_FLAGS=--batch_size 4}"
# without vt and cwe: with a vocabulary of 1,024 their prompts do not fit into 512 tokens
: "${RULER_TASKS=niah_single_1 niah_single_2 niah_single_3 niah_multikey_1 niah_multikey_2 niah_multikey_3 niah_multivalue niah_multiquery \
fwe qa_1 qa_2}"
