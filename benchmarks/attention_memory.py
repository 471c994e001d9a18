"""Peak memory of a checkpoint at growing lengths: linear in the number of tokens, or quadratic?

    python benchmarks/attention_memory.py --model_path CKPT --trust_remote_code        (Linux, on the CPU)

Reads random tokens whole without a cache (as perplexity does) and in two halves with a cache (as the engine reads a
long prompt). The last row is the exponent p of memory ~ length^p between the first and the last length: 1 is linear.
"""

import ctypes
import re
from pathlib import Path

import numpy as np
import torch
from harness import describe_machine, print_head, print_row

from attention import CACHED
from checkpoint import add_trust_flag, load_model, open_config
from run import Parser, positive_int, run_script

WAYS = {"whole": 1, "in two halves": 2}  # number of pieces
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt


@torch.inference_mode()
def extra_memory(model, ids_1L: torch.Tensor, pieces: int) -> float:
    """Peak resident memory of reading ids_1L, int64 [1, L], in pieces, above what was in use before, MiB."""
    for text_1L in (ids_1L[:, :256], ids_1L):  # the first loads libraries and thread pools
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again at the current size
        before = read_status("VmRSS")
        cache = None
        for piece_1n in text_1L.chunk(pieces, dim=1):
            output = model.base_model(input_ids=piece_1n, past_key_values=cache, use_cache=pieces > 1)
            cache = output.past_key_values
    return (read_status("VmHWM") - before) / 1024


def read_status(field: str) -> int:
    """A field of this process's memory, KiB."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", status)[1])


def main():
    parser = Parser(__doc__)
    parser.add_argument("--model_path", required=True, help="checkpoint folder")
    add_trust_flag(parser)
    parser.add_argument("--lengths", type=positive_int, nargs="+", default=[2048, 4096, 8192, 16384], help="tokens")
    args = parser.parse_args()
    for parameter in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):  # freed memory returns to the system at once
        ctypes.CDLL(None).mallopt(parameter, 65536)
    config = open_config(args.model_path, args.trust_remote_code)
    model = load_model(args.model_path, config, "float32", "sdpa", torch.device("cpu"))
    if not getattr(config, "auto_map", None):
        model.set_attn_implementation(CACHED)  # as in the engine
    print(f"{describe_machine()}\n")
    print_head("tokens", *(f"{way}, MiB" for way in WAYS))
    table = []
    for length in args.lengths:
        ids_1L = torch.randint(5, config.vocab_size, (1, length))
        table.append([extra_memory(model, ids_1L, pieces) for pieces in WAYS.values()])
        print_row(length, *table[-1])
    growth = np.log(np.divide(table[-1], table[0]))
    exponents = growth / np.log(args.lengths[-1] / args.lengths[0])
    print_row("p", *np.round(exponents, 2).astype(str))


if __name__ == "__main__":
    run_script(main)
