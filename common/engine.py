"""What all engines share: what they are, and the order and the groups of the prompts.

Prompts are lists of token ids. The rope of a prompt is fixed before its first token, for len(prompt) + max_new_tokens
tokens (see rope.py), so a group has prompts of one rope.
"""

import itertools
import json
import math
import os
from collections.abc import Sequence

from run import WORLD_SIZE, command_line, default_device, versions

from attention import sdpa_kernels
from checkpoint import TOKENIZER_FILES, choose_dtype, describe, fingerprint, open_config
from rope import rope_at
from tokenizer import open_tokenizer

MOSTLY_NEW = 0.9  # above this share of tokens that no other prompt begins with, prompts are ordered by length


def shared_prefix(a: list[int], b: list[int]) -> int:
    """The number of ids that two lists have in common at their beginning."""
    return len(os.path.commonprefix([a, b]))


def cut_at(text: str, stop_strings) -> str:
    """The text before the first stop string in it."""
    beginnings = [text.partition(stop)[0] for stop in stop_strings]
    return min(beginnings, key=len, default=text)


class Engine:
    """Base class of the engines.

    name: "transformers", "vllm" or "openai".  model_info: see checkpoint.describe.  window: the length that the
    checkpoint declares, tokens.  device, dtype, attention: None if this process does not know them.
    batch_size: most prompts in a group.  prefill_chunk: tokens of a prompt computed at a time.
    prefilled_tokens, generated_tokens: computed so far.
    """

    name = device = dtype = attention = config = window = tokenizer_fingerprint = None
    prefilled_tokens = generated_tokens = prefill_chunk = 0

    def open_checkpoint(self, dtype: str, trust: bool | str):
        """Reads everything but the weights; raises ValueError if it cannot. trust: see checkpoint.is_trusted."""
        self.name_or_path = str(self.name_or_path)
        self.config = open_config(self.name_or_path, trust)
        self.tokenizer = open_tokenizer(self.name_or_path, trust is True)
        self.dtype = choose_dtype(self.device or default_device(), dtype)
        self.window = getattr(self.config, "max_position_embeddings", None)
        self.model_info = describe(self.name_or_path, self.config)
        self.fingerprint = fingerprint(self.name_or_path, self.config)
        self.tokenizer_fingerprint = fingerprint(self.name_or_path, self.config, TOKENIZER_FILES)

    def settings(self) -> dict:
        """What a run must share with an earlier one to keep its answers."""
        return {
            "checkpoint": self.fingerprint,
            "tokenizer": self.tokenizer_fingerprint,
            "engine": self.name,
            "dtype": self.dtype,
            "attention": self.attention,
        }

    def describe(self, *packages: str) -> dict:
        """What a result records about its model, engine and run. packages: see run.versions."""
        return {
            "model": self.name_or_path,
            **self.model_info,
            **self.settings(),
            "sdpa_kernels": sdpa_kernels(self.device),
            "batch_size": self.batch_size,
            "versions": versions(*packages),
            "command": command_line(),
            "processes": WORLD_SIZE,
        }

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def token_budget(self) -> float:
        """Tokens that the caches of one group may contain together."""
        return math.inf

    def generate(
        self, prompts: list, max_new_tokens: int, stop_strings=(), stop_ids=(), min_new_tokens: int = 0
    ) -> list[str]:
        """The text of each prompt's answer, greedily, cut at the first stop string.

        An answer ends before EOS or one of stop_ids; with min_new_tokens = 1, neither is its first token.
        """
        texts = []
        for indices in self.batches(range(len(prompts)), prompts, max_new_tokens):
            group = [prompts[i] for i in indices]
            for ids in self.generate_ids(group, max_new_tokens, stop_strings, stop_ids, min_new_tokens):
                texts.append(cut_at(self.decode(ids), stop_strings))
        return texts

    def batches(self, order: Sequence[int], prompts: list, max_new_tokens: int) -> list[list[int]]:
        """Cuts `order` into groups of at most `batch_size` prompts of one rope whose caches fit `token_budget`."""
        budget = self.token_budget() if order and self.batch_size > 1 else 0
        groups, group = [], []
        group_rope, longest = None, 0
        for i in order:
            length = len(prompts[i]) + max_new_tokens
            rope = rope_at(self.config, length)
            longest = max(longest, length)
            size = len(group) + 1
            if not group or rope != group_rope or size > self.batch_size or size * longest > budget:
                group, group_rope, longest = [], rope, length
                groups.append(group)
            group.append(i)
        return groups

    def plan(self, prompts: list, max_new_tokens: int, ranks: int = 1) -> list[list[int]]:
        """The order of the prompts, as indices: one list per rank, of about equal work.

        Prompts of one rope are neighbours. Among them those with a common beginning are (a depth-first walk of the
        prefix tree computes each edge once), or, where little is common, those of similar length.
        Raises ValueError if a prompt has an id that the model lacks.
        """
        self.check_ids(prompts)
        lengths = list(map(len, prompts))
        ropes = []
        for length in lengths:
            rope = rope_at(self.config, length + max_new_tokens)
            ropes.append(json.dumps(rope, sort_keys=True))
        order = sorted(range(len(prompts)), key=lambda i: (ropes[i], prompts[i]))
        work = list(lengths)  # tokens to compute for each prompt
        for previous, i in itertools.pairwise(order):
            if ropes[previous] == ropes[i]:
                work[i] -= shared_prefix(prompts[previous], prompts[i])
        if sum(work) > MOSTLY_NEW * sum(lengths):
            order.sort(key=lambda i: (ropes[i], -lengths[i], prompts[i]))
            work = lengths

        shares = [[] for _ in range(ranks)]
        total = sum(work) + max_new_tokens * len(prompts)
        done = 0
        for i in order:
            tokens = work[i] + max_new_tokens
            rank = int(ranks * (done + tokens / 2) / total)
            shares[rank].append(i)
            done += tokens
        return shares

    def check_ids(self, prompts: list):
        """Raises ValueError if a prompt has an id that the model lacks. A server checks its prompts itself."""
        if self.config is None:
            return
        vocab_size = self.config.get_text_config().vocab_size
        largest = max(itertools.chain.from_iterable(prompts), default=0)
        if largest >= vocab_size:
            raise ValueError(f"{self.name_or_path} has {vocab_size} token ids, a prompt has the id {largest}")
