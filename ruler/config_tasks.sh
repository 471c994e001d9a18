# The tasks of a benchmark and how many samples each has. Sourced by run.sh; edit it as you like.
#
# 500 samples of 13 tasks at 5 lengths are days of one GPU with a 7B model: NUM_SAMPLES=100 gives wider intervals.
NUM_SAMPLES=${NUM_SAMPLES:-500}

TASKS=${TASKS:-} # a shorter list, separated by spaces or commas; empty: these
synthetic=(${TASKS//,/ })
[ ${#synthetic[@]} -gt 0 ] || synthetic=(
  niah_single_1 niah_single_2 niah_single_3 niah_multikey_1 niah_multikey_2 niah_multikey_3 niah_multivalue
  niah_multiquery vt cwe fwe qa_1 qa_2
)
pocket=("${synthetic[@]}") # of pocket.yaml, which has some of them
