"""What the engines (transformers_engine.py, vllm_engine.py) have in common: the order and the groups of prompts.

Prompts are lists of token ids. The rope of a prompt is fixed before its first token, for len(prompt) + max_new_tokens
tokens (see rope.py), so a group holds prompts of one rope.
"""

import json
import math

import torch

from checkpoint import choose_dtype, open_config, open_tokenizer
from rope import rope_at

MOSTLY_NEW = 0.9  # above this share of tokens that no other prompt begins with, prompts are ordered by length


def shared_prefix(a: list[int], b: list[int]) -> int:
    """How many ids two lists have in common at their beginning."""
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))


def cut_at(text: str, stop_strings) -> str:
    """The text before the first stop string in it."""
    positions = [text.find(stop) for stop in stop_strings if stop in text]
    return text[: min(positions)] if positions else text


class Engine:
    """What the engines know before any weight is read.

    tokenizer, config: the checkpoint's.  window: the length it declares, tokens.  dtype, attention: what it runs in.
    prefilled_tokens, generated_tokens: computed so far.  batch_size: most prompts in a group.
    oom_retries: one entry for each time that a group did not fit in memory.
    """

    def __init__(self, name_or_path: str, dtype: str, device: torch.device, trust_remote_code: bool, **kwargs):
        self.name_or_path = str(name_or_path)
        self.trust_remote_code = trust_remote_code
        self.config = open_config(self.name_or_path, trust_remote_code, **kwargs)
        rope_at(self.config, 2)  # raises on an unknown rule
        self.window = getattr(self.config, "max_position_embeddings", None)
        self.dtype = choose_dtype(device, dtype)
        self.tokenizer = open_tokenizer(self.name_or_path, trust_remote_code)
        self.prefilled_tokens = 0
        self.generated_tokens = 0
        self.oom_retries = []

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def token_budget(self) -> float:
        """Tokens that the caches of one group may hold together."""
        return math.inf

    def batches(self, order: list[int], prompts: list[list[int]], max_new_tokens: int) -> list[list[int]]:
        """Cuts `order` into groups of at most `batch_size` prompts of one rope whose caches fit `token_budget`."""
        budget = self.token_budget() if order and self.batch_size > 1 else 0
        groups, group, group_rope, longest = [], [], None, 0
        for i in order:
            length = len(prompts[i]) + max_new_tokens
            rope = rope_at(self.config, length)
            longest = max(longest, length)
            fits = len(group) < self.batch_size and (len(group) + 1) * longest <= budget
            if group and rope == group_rope and fits:
                group.append(i)
                continue
            group, group_rope, longest = [i], rope, length
            groups.append(group)
        return groups

    def plan(self, prompts: list[list[int]], max_new_tokens: int, ranks: int = 1) -> list[list[int]]:
        """The order of the prompts, as indices: one list per rank, of about equal work.

        Prompts of one rope stand together. Among them those with a common beginning do (a depth-first walk of the
        prefix tree computes each edge once), or, where little is common, those of similar length.
        """
        rope_by_length = {n: rope_at(self.config, n + max_new_tokens) for n in {len(ids) for ids in prompts}}
        ropes = [json.dumps(rope_by_length[len(ids)], sort_keys=True) for ids in prompts]
        order = sorted(range(len(prompts)), key=lambda i: (ropes[i], prompts[i]))
        work = []  # tokens to compute for each prompt
        for position, i in enumerate(order):
            last = order[position - 1]
            shared = position > 0 and ropes[last] == ropes[i]
            work.append(len(prompts[i]) - (shared_prefix(prompts[last], prompts[i]) if shared else 0))
        if sum(work) > MOSTLY_NEW * sum(map(len, prompts)):
            order.sort(key=lambda i: (ropes[i], -len(prompts[i]), prompts[i]))
            work = [len(prompts[i]) for i in order]
        if ranks == 1:
            return [order]
        work = [tokens + max_new_tokens for tokens in work]
        shares, done, total = [[] for _ in range(ranks)], 0, sum(work)
        for i, tokens in zip(order, work, strict=True):
            middle = done + tokens / 2
            shares[min(ranks - 1, int(ranks * middle / total))].append(i)
            done += tokens
        return shares
