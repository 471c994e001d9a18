"""Perplexity of self_extend checkpoints; flags and files as in eval_ppl.py.

    python eval_selfextend.py --seq_len 32768 --batch_size 1 --base_model CKPT --data_path data/pg19/test.bin \\
        --output_dir results/pg19/selfextend_pg19.json --trust_remote_code

The checkpoint brings its own attention, hence --trust_remote_code. The same command serves a CPU and a GPU; for
several: torchrun --nproc_per_node=8 eval_selfextend.py ...
"""

import eval_ppl

if __name__ == "__main__":
    eval_ppl.main(methods=("self_extend",))
