# The pocket study: needs nothing but this machine. A Llama of 2 M parameters, which is part of this repository, is
# extended 4 times. Stand-in data and a tiny model: it illustrates the pipeline and the effects.
[ -n "${RUN:-}" ] || : "${FIGURES=fig}"
: "${RUN=quickstart_run}" "${RECIPE=pocket}"
: "${BASE=continuous_finetuning/pocket_base}" "${DATASET=}" "${ROWS=200}" # rows made of this machine's Python
: "${EXTENDED=1024}"                                                     # tokens; the window of the base is 256
: "${TRAINED=origin pi ntk yarn clex longlora landmark}" "${FROZEN=ntk_frozen lm_infinite self_extend}"

: "${ROWS_FLAGS=--source_column source --mix task=0.5,python=0.4,prose=0.1 --keep_short 1 --workers 1}"

# fine-tuning: 150 steps of one row, one process per core
: "${NPROC=1}" "${DEEPSPEED=}" "${BATCH_SIZE=1}" "${GRADIENT_ACCUMULATION=1}" "${LR=1e-3}" "${LR_SCHEDULER=linear}"
: "${WARMUP_STEPS=10}" "${MAX_STEPS=150}" "${SAVE_STEPS=50}" "${GRADIENT_CHECKPOINTING=False}" "${BF16=False}" "${TF32=False}"
: "${USE_FLASH_ATTN=False}" "${REPORT_TO=none}" "${USE_WANDB=False}"
# CLEX: coarser solver steps, and a learning rate at which its network converges (at 1e-3 it diverges)
: "${FLAGS_clex=--max_factor 16 --time_dt 0.1 --learning_rate 5e-5}"
: "${FLAGS_longlora=--low_rank_training True}"
# Landmark: blocks that fit into the small window
: "${FLAGS_landmark=--model_max_length 256 --per_device_train_batch_size 4 --mem_freq 31 --top_k 3}"

# glibc keeps what is freed: the page faults of fresh memory take a sixth of the time of so small a model
: "${MALLOC_MMAP_MAX_=0}" "${MALLOC_TRIM_THRESHOLD_=100000000000}" "${MALLOC_TOP_PAD_=268435456}"

# evaluation
: "${TEXTS=}" "${PERPLEXITY_LENGTHS=256 512 1024 2048}" # 1 to 8 times the base's window
: "${PERPLEXITY_FLAGS=--batch_size 4 --max_windows 48 32 16 8}"
: "${NEEDLE_LENGTHS=256 512 1024 2048}"
: "${NEEDLE_FLAGS=--template passkey --depths 0 25 50 75 100 --trials 6 --max_new_tokens 5}"
: "${STANDIN_FLAGS=--sets qasper multifieldqa_en lcc repobench-p passage_retrieval_en --words 200 --rows 24 --shots 4 8 16 32 --classes 4 --pairs 4 8 --icl_shots 16 32}"
: "${LONGBENCH_SETS=standin_qasper standin_multifieldqa_en standin_lcc standin_repobench-p standin_passage_retrieval_en}"
: "${TREC_SETS=standin_trec_4shots standin_trec_8shots standin_trec_16shots standin_trec_32shots}"
: "${LONGBENCH_FLAGS=--max_new_tokens 16}"
: "${KV_SETS=standin_kv_4pairs standin_kv_8pairs}" "${ICL_SETS=standin_icl_16shots standin_icl_32shots}"
: "${SHORT_FLAGS=--tasks pocket_lookup pocket_classify pocket_answer --batch_size 16}" # made with the rows
: "${RULER_LENGTHS=1024}" "${RULER_SAMPLES=5}" "${RULER_PREPARE_FLAGS=--tokens_to_generate 48}" "${RULER_FLAGS=--batch_size 8}"
