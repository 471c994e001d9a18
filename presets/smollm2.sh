# SmolLM2-135M from its window of 8k to 32k on 262 million tokens of SlimPajama: every method, the official benchmarks, one
# GPU of 24 GB or more. Needs the hub, and once `python ruler/data/download.py`.
#
#   PRESET=smollm2 bash study.sh --dry_run                        estimates the training on an RTX 4090
#   MACHINE=1xA100-80 PRESET=smollm2 bash study.sh --dry_run      on another card
#   BASE=HuggingFaceTB/SmolLM2-360M RUN=runs/smollm2-360m RECIPE=smollm2-360m PRESET=smollm2 bash study.sh
: "${RUN=runs/smollm2}" "${RECIPE=smollm2-135m}" "${BASE=HuggingFaceTB/SmolLM2-135M}" "${MACHINE=1xRTX4090}"
: "${DATASET=}" "${ROWS_TEXT=cerebras/SlimPajama-627B}" "${ROWS_FLAGS=--total_tokens 263M --workers 8}"

: "${TRAINED=origin pi ntk abf yarn llama3 longrope clex longlora drope landmark}"
: "${FROZEN=ntk_frozen lm_infinite streaming self_extend rerope string dca}"
: "${FLAGS_drope=--per_device_train_batch_size 4}" # rows of the base's window, a quarter of a row of 32k
: "${FLAGS_string=--model_max_length 16256 --longest_text 16256}" # as far as its positions stay in the base's window

# fine-tuning: 500 steps of 16 rows
: "${NPROC=1}" "${DEEPSPEED=}" "${GLOBAL_BATCH=16}" "${MAX_STEPS=500}" "${LR=1e-4}" "${SAVE_STEPS=50}"
: "${REPORT_TO=none}" "${USE_WANDB=False}"
: "${FLAGS_clex=--max_factor 16 --learning_rate 2e-5}"
# Landmark: the tokens of a step, 1,024 blocks of 512
: "${FLAGS_landmark=--model_max_length 512 --per_device_train_batch_size 32 --gradient_accumulation_steps 32}"

# evaluation: token files of this tokenizer, a sample of the windows
: "${TEXTS=data/smollm2/pg19/test.bin data/smollm2/proof_file/test_sampled_data.bin}" "${PERPLEXITY_FLAGS=--max_windows 200}"
: "${RULER_SAMPLES=100}"
. presets/paper.sh # everything else: the paper's methods, lengths and benchmarks
