# SmolLM2-135M from its 8k window to 32k on 0.26 billion tokens of SlimPajama, every method, the official benchmarks, on
# one GPU of 24 GB or more. `PRESET=smollm2 bash study.sh --dry_run` estimates the training; MACHINE=1xA100-80 on that card.
#
#   BASE=HuggingFaceTB/SmolLM2-360M RUN=runs/smollm2-360m RECIPE=smollm2-360m PRESET=smollm2 bash study.sh
: "${RUN=runs/smollm2}" "${RECIPE=smollm2-135m}"
: "${BASE=HuggingFaceTB/SmolLM2-135M}" "${DATASET=}"
