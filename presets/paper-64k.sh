# The 64k row of the paper, NTK-64K; TRAINED="ntk clex yarn" adds others under the same recipe.
: "${RUN=runs/paper-64k}" "${EXTENDED=65536}" "${DATASET=Leooyii/Slimpajama_downsample_64k_1B}"
: "${TRAINED=ntk}" "${FROZEN=}"
. presets/paper.sh
