"""What the engine saves on a needle grid by computing common beginnings of prompts once.

    python benchmarks/needle_prefix.py --model_path CKPT      a small checkpoint on a CPU, such as quickstart_run/base

Counts: the paper's lengths up to 65,536 tokens and its depths (arXiv 2409.12181), with the checkpoint's tokenizer and
the stand-in haystack. Times: 20 lengths from 250 to 4,000 tokens, four tokens per answer.
"""

import argparse
import itertools
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


def build_prompts(engine, lengths, max_new_tokens: int) -> list[list[int]]:
    """Token ids of the prompts of a grid, in the engine's order."""
    style = STYLES["book"]
    haystack = build_haystack(engine.tokenizer, read_texts(None)[0].values(), max(lengths))
    builder = Prompts(engine.tokenizer, haystack, style.template, max_new_tokens)
    prompts = []
    for length, depth in itertools.product(lengths, DEPTHS):
        prompts.append(builder.build(length, depth, style.fixed.needle, style.fixed.question))
    [order] = engine.plan(prompts, max_new_tokens)
    return [prompts[i] for i in order]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_path", required=True, help="checkpoint folder")
    args = parser.parse_args()
    print(f"{describe_machine()}\n")
    engine = Transformers(args.model_path, batch_size=1)

    print_head("prompts", "tokens", "to prefill", "share")
    prompts = build_prompts(engine, LENGTHS[LENGTHS <= 65536], 50)
    tokens = sum(map(len, prompts))
    shared = 0
    for previous, ids in itertools.pairwise(prompts):
        shared += shared_prefix(previous, ids)
    print_row(len(prompts), f"{tokens:,}", f"{tokens - shared:,}", f"{1 - shared / tokens:.3f}")

    print()
    print_head("reuse", "prefilled tokens", "seconds", "equal answers")
    prompts = build_prompts(engine, SHORT_LENGTHS, 4)
    first = None
    for reuse in (False, True, False, True):
        engine = Transformers(args.model_path, batch_size=1, reuse_prefix=reuse)
        engine.load()
        start = time.perf_counter()
        answers = engine.generate(prompts, 4)
        seconds = time.perf_counter() - start
        first = first or answers
        equal = sum(a == b for a, b in zip(first, answers, strict=True))
        print_row(reuse, f"{engine.prefilled_tokens:,}", seconds, f"{equal} of {len(answers)}")


if __name__ == "__main__":
    run_script(main)
