# The pocket study with three seeds of the fine-tuning: the table has their mean, and the standard deviation between them.
: "${RUN=runs/pocket_seeds}" "${SEEDS=41 42 43}"
. presets/pocket.sh
