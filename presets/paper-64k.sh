# The 64k row of the paper, NTK-64K; TRAINED="ntk clex yarn" adds others under the same recipe.
: "${RUN=runs/paper-64k}" "${EXTENDED=65536}" "${TRAINED=ntk}" "${FROZEN=}"
: "${DATASET=Leooyii/Slimpajama_downsample_64k_1B}"
. presets/paper.sh
