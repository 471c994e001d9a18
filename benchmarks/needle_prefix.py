"""What needle/engine.py saves on a needle grid by computing common beginnings of prompts once: tokens, time, memory.

    python benchmarks/needle_prefix.py                  (CPU: counts of the grid up to 64k, times of a small one)
    python benchmarks/needle_prefix.py --threads 2 --repeats 3

Counts: the paper's grid (arXiv 2409.12181: 20 lengths from 1,000 to 62,872 tokens, 10 depths, one needle), built by
needle/haystack.py from the stand-in text (pydoc_data) for a BPE tokenizer of 32,000 entries. That is trained on this
Python's own library and kept in the temporary folder for the next time.
  - one after another: all tokens of all prompts.
  - one shared base: template and haystack once; of each prompt, what follows the needle's place anew.
  - prefix tree: the distinct beginnings of all prompts, counted position by position: the fewest possible.
  - engine: what engine.py feeds to the model in the order of its plan; the model is a stub that computes nothing.
Beside the tokens stand the query-key pairs of causal attention: what is saved lies at the beginning, where a token has
few keys, so at lengths at which attention dominates the gain in time is nearer to that of the pairs.
Times: 20 lengths from 250 to 4,000 and the same depths, on a Llama with random weights (4 layers, hidden 256), with and
without the reuse, in turns in one process; the fastest of each counts. Four tokens an answer, which must agree.
Memory: one prompt behind a cache, whole and in chunks, each in a process of its own: the peak above what was held
before, of which the cache is a part.
"""

import argparse
import itertools
import os
import platform
import subprocess
import sys
import sysconfig
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from attention_memory import PeakMemory
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "needle"))
sys.path.append(str(ROOT / "continuous_finetuning"))
import pocket_corpus  # noqa: E402
from engine import shared_prefix  # noqa: E402
from facts import STYLES  # noqa: E402
from haystack import Prompts, build_haystack, read_texts  # noqa: E402
from transformers_engine import Transformers  # noqa: E402

LENGTHS = [n for n in np.round(np.linspace(1000, 128000, 40)).astype(int).tolist() if n <= 65536]
SMALL = np.round(np.linspace(250, 4000, 20)).astype(int).tolist()
DEPTHS = np.round(np.linspace(0, 100, 10)).astype(int).tolist()
NEW, SMALL_NEW, VOCABULARY = 50, 4, 32000


def prepare(folder: Path) -> Path:
    """A checkpoint with random weights and the tokenizer, made unless it is there."""
    if not (folder / "config.json").exists():
        print("training the tokenizer", file=sys.stderr, flush=True)
        texts = list(pocket_corpus.read_corpus(Path(sysconfig.get_path("stdlib"))).values())
        tokenizer = pocket_corpus.train_tokenizer(texts, VOCABULARY)
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=pocket_corpus.BOS).save_pretrained(folder)
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=256,
            intermediate_size=688,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=65536,
            initializer_range=0.1,
            tie_word_embeddings=True,
            eos_token_id=None,
        )
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


class Stub(Transformers):
    """The engine with a model that computes nothing, to count what it would be fed."""

    pairs = 0

    def load(self):
        self.model, self.eos_ids = self, set()
        self.rope = SimpleNamespace(parameters=self.config.rope_parameters)

    def forward(self, ids, cache):
        known = len(self.cached_ids)
        self.pairs += pairs(known, known + len(ids[0]))
        return torch.zeros(1, 2)


def pairs(known: int, length: int) -> int:
    """Query-key pairs of the tokens from `known` to `length`, each with all up to itself."""
    return (length * (length + 1) - known * (known + 1)) // 2


def tree_size(prompts: list[list[int]]) -> tuple[int, int]:
    """How many distinct non-empty beginnings the prompts have, and the pairs of their last tokens."""
    length = max(map(len, prompts))
    ids_PN = np.full((len(prompts), length), -1)
    for row, ids in zip(ids_PN, prompts, strict=True):
        row[: len(ids)] = ids
    branch_P, tokens, all_pairs = np.zeros(len(prompts), int), 0, 0
    for at, token_P in enumerate(ids_PN.T):  # prompts on one branch have been equal so far
        _, branch_P = np.unique(branch_P * (VOCABULARY + 1) + token_P, return_inverse=True)
        distinct = len(np.unique(branch_P[token_P >= 0]))
        tokens += distinct
        all_pairs += distinct * (at + 1)
    return tokens, all_pairs


def grid(engine: Transformers, lengths: list[int], new: int):
    """(prompts, ids of template and haystack of the longest, seconds): the cells of a grid, tokenised once for all."""
    style = STYLES["book"]
    began = time.perf_counter()
    haystack = build_haystack(engine.tokenizer, read_texts(None)[0], max(lengths))
    builder = Prompts(engine.tokenizer, haystack, style.template, new)
    needle, question = style.fixed.needle, style.fixed.question
    prompts = [builder.build(n, depth, needle, question) for n in lengths for depth in DEPTHS]
    seconds = time.perf_counter() - began
    return prompts, builder.head_ids + haystack.ids_N[: max(lengths)], seconds


def show_counts(folder: Path, lengths: list[int], new: int) -> list[list[int]]:
    """Prints what the ways of going through a grid cost; returns its prompts."""
    engine = Stub(folder, device="cpu", batch_size=1)
    prompts, base, seconds = grid(engine, lengths, new)
    began = time.perf_counter()
    [order] = engine.plan(prompts, new)
    planned = time.perf_counter() - began
    engine.generate([prompts[i] for i in order], 1)  # one token needs no pass behind the prompt's
    known = [shared_prefix(base, ids) for ids in prompts]
    ways = {
        "one after another": (sum(map(len, prompts)), sum(pairs(0, len(ids)) for ids in prompts)),
        "one shared base": (
            max(known) + sum(len(ids) - n for n, ids in zip(known, prompts, strict=True)),
            pairs(0, max(known)) + sum(pairs(n, len(ids)) for n, ids in zip(known, prompts, strict=True)),
        ),
        "prefix tree (bound)": tree_size(prompts),
        "engine.py": (engine.prefilled_tokens, engine.pairs),
    }
    print(
        f"\n{len(lengths)} lengths up to {lengths[-1]}, {len(DEPTHS)} depths; the prompts made in {seconds:.2f} s ",
        end="",
    )
    print(f"on one core, put in order in {planned:.2f} s:\n")
    print("| | prefilled tokens | share | query-key pairs, 1e9 | share |\n|---|---|---|---|---|")
    whole = ways["one after another"]
    for name, (tokens, keys) in ways.items():
        print(f"| {name} | {tokens:,} | {tokens / whole[0]:.3f} | {keys / 1e9:.2f} | {keys / whole[1]:.3f} |")
    return prompts


def show_times(folder: Path, prompts: list[list[int]], repeats: int):
    seconds, answers, fed = {True: [], False: []}, {}, {}
    for _, reuse in itertools.product(range(repeats), (False, True)):
        engine = Transformers(folder, device="cpu", reuse_prefix=reuse)
        engine.load()
        [order] = engine.plan(prompts, SMALL_NEW)
        began = time.perf_counter()
        made = {i: engine.generate_ids([prompts[i]], SMALL_NEW)[0] for i in order}
        seconds[reuse].append(time.perf_counter() - began)
        answers[reuse], fed[reuse] = made, engine.prefilled_tokens
    same = sum(answers[True][i] == answers[False][i] for i in answers[True])
    print(f"\n| reuse | prefilled tokens | fastest of {repeats}, s | slowest, s |\n|---|---|---|---|")
    for reuse in (False, True):
        print(f"| {reuse} | {fed[reuse]:,} | {min(seconds[reuse]):.1f} | {max(seconds[reuse]):.1f} |")
    gain, ratio = min(seconds[False]) / min(seconds[True]), fed[False] / fed[True]
    kinds = len({tuple(ids) for ids in answers[True].values()})
    print(
        f"\n{gain:.2f} times faster with {ratio:.2f} times fewer tokens; {same} of {len(prompts)} answers equal, ",
        end="",
    )
    print(f"{kinds} different ones")


def show_memory(folder: Path, length: int, chunks: list[int]):
    print(f"\n| prefill_chunk | peak above the start, MiB, of a prompt of {length} tokens | s |\n|---|---|---|")
    for chunk in chunks:
        words = [
            sys.executable,
            __file__,
            "--memory_of",
            str(chunk),
            str(length),
            "--threads",
            str(torch.get_num_threads()),
        ]
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True)
        print(f"| {chunk} | {done.stdout.strip() or 'failed'} |", flush=True)


def memory_of(folder: Path, chunk: int, length: int):
    engine = Transformers(folder, device="cpu", prefill_chunk=chunk)
    ids = torch.randint(3, VOCABULARY, (length,)).tolist()
    engine.generate_ids([ids[:256]], 1)  # libraries and thread pools; what follows goes on behind its cache
    with PeakMemory(torch.device("cpu")) as memory:
        engine.generate_ids([ids], 1)
    print(f"{memory.extra / 2**20:.0f} | {memory.seconds:.1f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=2, help="passes over the small grid, with and without [2]")
    parser.add_argument("--memory_of", type=int, nargs=2, help=argparse.SUPPRESS)  # be that measurement's process
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one core prepares the prompts
    folder = Path(tempfile.gettempdir()) / "needle_prefix_benchmark"
    folder.mkdir(exist_ok=True)
    prepare(folder)
    if args.memory_of:
        return memory_of(folder, *args.memory_of)

    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "tokenizers"))
    words = " ".join([Path(__file__).name, *sys.argv[1:]])
    print(f"{date.today()}, CPU, {os.cpu_count()} cores (load {os.getloadavg()[0]:.1f}), {args.threads} thread(s),")
    print(f"{versions}, Python {platform.python_version()}, `python benchmarks/{words}`:")
    show_counts(folder, LENGTHS, NEW)
    prompts = show_counts(folder, SMALL, SMALL_NEW)
    show_times(folder, prompts, args.repeats)
    show_memory(folder, 16384, [512, 2048, 16384])


if __name__ == "__main__":
    main()
