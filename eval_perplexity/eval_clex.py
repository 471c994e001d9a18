"""Perplexity of clex checkpoints; flags and files as in eval_ppl.py.

    python eval_clex.py --seq_len 32768 --batch_size 1 --base_model CKPT --data_path data/pg19/test.bin \\
        --output_dir results/pg19/clex_pg19.json

The same command serves a CPU and a GPU; for several: torchrun --nproc_per_node=8 eval_clex.py ...
"""

import eval_ppl

if __name__ == "__main__":
    eval_ppl.main(methods=("clex",))
