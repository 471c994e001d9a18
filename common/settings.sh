# Checks the variables of study.sh and the launchers before bash calculates with them: it would run the code inside
# NPROC='a[$(command)]'. Sourced by steps.sh and pool.sh.

refuse() { # MESSAGE: a setting is wrong
  echo "error: $*" >&2
  exit 1
}

check() { # PATTERN MEANING VARIABLE...: refuses a variable that is not empty and does not match
  local name pattern="^($1)?$"
  for name in "${@:3}"; do
    [[ ${!name-} =~ $pattern ]] || refuse "$name='${!name}': give $2"
  done
}

check_settings() { # of study.sh and all launchers
  local space='[[:space:]]' count='[1-9][0-9]{0,8}' number='[0-9]{1,9}'
  check "$count" "a whole number above 0" NPROC JOBS NNODES SLURM_NNODES MASTER_PORT BATCH_SIZE GLOBAL_BATCH MAX_STEPS \
    GRADIENT_ACCUMULATION SEQUENCE_PARALLEL TENSOR_PARALLEL EVAL_BATCH_SIZE NUM_SAMPLES RULER_SAMPLES ROWS
  check "$number" "a whole number" NODE_RANK SLURM_NODEID
  check "$space*$number($space+$number)*$space*" "whole numbers" SEEDS
  check "$space*$count($space+$count)*$space*" "whole numbers above 0" \
    EXTENDED LENGTHS PERPLEXITY_LENGTHS NEEDLE_LENGTHS RULER_LENGTHS SEQ_LENGTHS
  check "[A-Za-z0-9_[:space:]]+" "names of methods" METHODS TRAINED FROZEN
  check "$space*((-?[0-9]|GPU-|MIG-)[^[:space:]]*$space*)+" "ids of GPUs" GPUS
  check "${count}x.+" "a machine such as 8xH100" ESTIMATE
}
