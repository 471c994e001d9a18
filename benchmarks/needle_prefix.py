"""What the engine saves on a needle grid by computing common beginnings of prompts once.

    python benchmarks/needle_prefix.py --model_path CKPT      a small checkpoint on a CPU, such as quickstart_run/base

Counts: the paper's lengths up to 65,536 tokens and its depths (arXiv 2409.12181), with the checkpoint's tokenizer and
the stand-in haystack: all prompt tokens; the distinct beginnings of all prompts, the fewest possible; and what the
engine computes, counted on a model that computes nothing. Query-key pairs are those of causal attention.
Times: 20 lengths from 250 to 4,000 tokens, with and without the reuse, in turns; four tokens per answer.
"""

import argparse
import sys
import time
from types import SimpleNamespace

import numpy as np
import torch
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


class CountingEngine(Transformers):
    """The engine with a model that computes nothing. pairs: the query-key pairs that it would have computed."""

    pairs = 0

    def load(self):
        self.model, self.eos_ids, self.prefill_chunk = self, set(), 2**20
        self.rope = SimpleNamespace(parameters=self.config.rope_parameters)

    def forward(self, ids):
        known = len(self.cached_ids)
        self.pairs += count_pairs(known, known + len(ids))
        return torch.zeros(1, 2)


def count_pairs(known: int, length: int) -> int:
    """Query-key pairs of the tokens from `known` to `length`, each with all up to itself."""
    return (length * (length + 1) - known * (known + 1)) // 2


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


def count_prefix_tree(prompts: list[list[int]]) -> tuple[int, int]:
    """Tokens and pairs of the prompts' distinct beginnings."""
    previous, tokens, pairs = [], 0, 0
    for ids in sorted(prompts):  # what a prompt does not share with the one before it is a new branch
        known = shared_prefix(previous, ids)
        tokens += len(ids) - known
        pairs += count_pairs(known, len(ids))
        previous = ids
    return tokens, pairs


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_path", required=True, help="checkpoint folder")
    parser.add_argument("--e_len", type=int, default=65536, help="longest of the counted lengths, tokens [65536]")
    parser.add_argument("--repetitions", type=int, default=2, help="of the timed grid [2]")
    args = parser.parse_args()
    print(f"{describe_machine()}\n")

    engine = CountingEngine(args.model_path, device="cpu", batch_size=1)
    prompts = build_prompts(engine.tokenizer, LENGTHS[LENGTHS <= args.e_len], 50)
    [order] = engine.plan(prompts, 50)
    engine.generate([prompts[i] for i in order], 1)
    all_tokens = sum(map(len, prompts))
    all_pairs = sum(count_pairs(0, len(ids)) for ids in prompts)
    counts = {
        "one after another": (all_tokens, all_pairs),
        "prefix tree (bound)": count_prefix_tree(prompts),
        "engine": (engine.prefilled_tokens, engine.pairs),
    }
    print_head("", "prefilled tokens", "share", "query-key pairs, 1e9", "share")
    for name, (tokens, pairs) in counts.items():
        print_row(name, f"{tokens:,}", f"{tokens / all_tokens:.3f}", f"{pairs / 1e9:.2f}", f"{pairs / all_pairs:.3f}")

    print()
    print_head("reuse", "prefilled tokens", "seconds", "equal answers")
    first = None
    for reuse in (False, True) * args.repetitions:
        engine = Transformers(args.model_path, batch_size=1, reuse_prefix=reuse)
        prompts = build_prompts(engine.tokenizer, SHORT_LENGTHS, 4)
        engine.load()
        [order] = engine.plan(prompts, 4)
        start = time.perf_counter()
        answers = engine.generate([prompts[i] for i in order], 4)
        seconds = time.perf_counter() - start
        first = first or answers
        equal = sum(a == b for a, b in zip(first, answers, strict=True))
        print_row(reuse, f"{engine.prefilled_tokens:,}", seconds, f"{equal} of {len(answers)}")


if __name__ == "__main__":
    run_script(main)
