# The study of arXiv 2409.12181: Llama-2-7B from 4k to 32k on one billion tokens of SlimPajama, ten methods, evaluated to
# 64k. Needs the hub (or its files) and a node of 8 GPUs. `PRESET=paper bash study.sh --dry_run` estimates the training.
: "${RUN=runs/paper}" "${RECIPE=llama2-7b-hf-slimpajama}"
: "${BASE=meta-llama/Llama-2-7b-hf}" "${DATASET=Leooyii/Slimpajama_downsample_32k_1B}"
: "${EXTENDED=32768}"
: "${TRAINED=origin pi ntk yarn clex longlora landmark}" "${FROZEN=ntk_frozen lm_infinite self_extend}"
: "${FLAGS_longlora=--low_rank_training True}"
# Landmark: blocks of 512, all 256 rows of a step at once; with everything offloaded it would take 23 hours instead of 5
# (estimated)
: "${FLAGS_landmark=--model_max_length 512 --per_device_train_batch_size 32 --gradient_accumulation_steps 1 --deepspeed ds_configs/stage3.json}"

: "${TEXTS=data/pg19/test.bin data/proof_file/test_sampled_data.bin}" # made from the hub where they are missing
: "${PERPLEXITY_LENGTHS=2048 4096 8192 16384 32768 65536}"
: "${NEEDLE_FLAGS=--e_len 65536}" # the paper's 40 lengths
: "${LONGBENCH_SETS=narrativeqa qasper multifieldqa_en hotpotqa 2wikimqa musique gov_report qmsum multi_news trec triviaqa \
samsum passage_count passage_retrieval_en lcc repobench-p}"
: "${TREC_SETS=trec_1shots trec_5shots trec_10shots trec_25shots trec_50shots trec_75shots trec_100shots trec_200shots \
trec_300shots trec_400shots trec_500shots trec_625shots trec_750shots trec_875shots trec_1000shots}"
: "${RULER_LENGTHS=4096 8192 16384 32768 65536}" "${RULER_SAMPLES=500}"
