"""What the engine saves on a needle grid by computing common beginnings of prompts once.

    python benchmarks/needle_prefix.py --model_path CKPT      a small checkpoint on a CPU, such as quickstart_run/base

Counts: the paper's lengths up to 65,536 tokens and its depths (arXiv 2409.12181), with the checkpoint's tokenizer and
the stand-in haystack. Query-key pairs are those of causal attention.
Times: 20 lengths from 250 to 4,000 tokens, with and without the reuse, in turns; four tokens per answer.
"""

import argparse
import sys
import time

import numpy as np
from harness import ROOT, describe_machine, print_head, print_row

sys.path.insert(0, str(ROOT / "needle"))
from engine import shared_prefix  # noqa: E402
from facts import STYLES  # noqa: E402
from haystack import Prompts, build_haystack, read_texts  # noqa: E402
from run import run_script  # noqa: E402
from transformers_engine import Transformers  # noqa: E402

LENGTHS = np.round(np.linspace(1000, 128000, 40)).astype(int)
SHORT_LENGTHS = np.round(np.linspace(250, 4000, 20)).astype(int)
DEPTHS = np.round(np.linspace(0, 100, 10)).astype(int)


def build_prompts(tokenizer, lengths, max_new_tokens: int) -> list[list[int]]:
    """Token ids of the prompts of a grid."""
    style = STYLES["book"]
    haystack = build_haystack(tokenizer, read_texts(None)[0], max(lengths))
    builder = Prompts(tokenizer, haystack, style.template, max_new_tokens)
    prompts = []
    for length in lengths:
        for depth in DEPTHS:
            prompts.append(builder.build(length, depth, style.fixed.needle, style.fixed.question))
    return prompts


def count_work(prompts: list[list[int]], reuse: bool = True) -> tuple[int, int]:
    """Tokens and query-key pairs to compute if each prompt reuses what it shares with the one before it."""
    previous, tokens, pairs = [], 0, 0
    for ids in prompts:
        known = shared_prefix(previous, ids) if reuse else 0
        tokens += len(ids) - known
        pairs += (len(ids) * (len(ids) + 1) - known * (known + 1)) // 2
        previous = ids
    return tokens, pairs


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_path", required=True, help="checkpoint folder")
    args = parser.parse_args()
    print(f"{describe_machine()}\n")

    engine = Transformers(args.model_path, batch_size=1)
    prompts = build_prompts(engine.tokenizer, LENGTHS[LENGTHS <= 65536], 50)
    [order] = engine.plan(prompts, 50)
    counts = {
        "one after another": count_work(prompts, reuse=False),
        "prefix tree (bound)": count_work(sorted(prompts)),
        "in the engine's order": count_work([prompts[i] for i in order]),
    }
    all_tokens, all_pairs = counts["one after another"]
    print_head("", "prefilled tokens", "share", "query-key pairs, 1e9", "share")
    for name, (tokens, pairs) in counts.items():
        print_row(name, f"{tokens:,}", f"{tokens / all_tokens:.3f}", f"{pairs / 1e9:.2f}", f"{pairs / all_pairs:.3f}")

    print()
    print_head("reuse", "prefilled tokens", "seconds", "equal answers")
    prompts = build_prompts(engine.tokenizer, SHORT_LENGTHS, 4)
    [order] = engine.plan(prompts, 4)
    first = None
    for reuse in (False, True, False, True):
        engine = Transformers(args.model_path, batch_size=1, reuse_prefix=reuse)
        engine.load()
        start = time.perf_counter()
        answers = engine.generate([prompts[i] for i in order], 4)
        seconds = time.perf_counter() - start
        first = first or answers
        equal = sum(a == b for a, b in zip(first, answers, strict=True))
        print_row(reuse, f"{engine.prefilled_tokens:,}", seconds, f"{equal} of {len(answers)}")


if __name__ == "__main__":
    run_script(main)
