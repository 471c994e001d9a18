"""Greedy answers of a checkpoint to long prompts.

    engine = Transformers(path)
    texts = engine.generate(prompts, 50)

Prompts are lists of token ids. What they have in common at their beginning is computed once: one key-value cache is
kept and cropped to the prefix that it shares with the next prompt. In the order of `plan`, a depth-first walk of the
prefix tree, each edge of that tree is computed once. Prompts are prefilled one at a time and decoded in groups.

The rope of a prompt is fixed before its first token, for len(prompt) + max_new_tokens tokens (see rope.py).
"""

import json
import math

import psutil
import torch
from transformers import DynamicCache

from checkpoint import choose_attention, choose_dtype, load_model, open_config, open_tokenizer
from kv_cache import CacheLayer
from rope import RopeSetter, rope_at
from run import default_device, first_line, out_of_memory


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

        Prompts of one rope stand together, and among them those with a common beginning.
        """
        rope_by_length = {n: rope_at(self.config, n + max_new_tokens) for n in {len(ids) for ids in prompts}}
        ropes = [json.dumps(rope_by_length[len(ids)], sort_keys=True) for ids in prompts]
        order = sorted(range(len(prompts)), key=lambda i: (ropes[i], prompts[i]))
        if ranks == 1:
            return [order]
        work, last = [], None  # tokens to compute for each prompt
        for i in order:
            known = 0
            if last is not None and ropes[last] == ropes[i]:
                known = shared_prefix(prompts[last], prompts[i])
            work.append(len(prompts[i]) - known + max_new_tokens)
            last = i
        shares, done, total = [[] for _ in range(ranks)], 0, sum(work)
        for i, tokens in zip(order, work, strict=True):
            middle = done + tokens / 2
            shares[min(ranks - 1, int(ranks * middle / total))].append(i)
            done += tokens
        return shares


class Transformers(Engine):
    """Any causal language model that Transformers opens.

    device: [this rank's GPU, else the CPU].  prefill_chunk: prompt tokens in one forward pass, at least 2.
    cache_on_cpu: keep the cache in CPU memory.  reuse_prefix: compute common beginnings once.
    batch_size: most prompts decoded together; always 1 with a cache on the CPU, and for a checkpoint with its own
    attention, which cannot mask padding.
    """

    name = "transformers"

    def __init__(
        self,
        name_or_path: str,
        trust_remote_code: bool = False,
        dtype: str = "auto",
        device: str | None = None,
        prefill_chunk: int = 2048,
        cache_on_cpu: bool = False,
        reuse_prefix: bool = True,
        batch_size: int = 16,
    ):
        self.device = default_device() if device is None else torch.device(device)
        super().__init__(name_or_path, dtype, self.device, trust_remote_code)
        self.prefill_chunk = prefill_chunk
        self.cache_on_cpu = cache_on_cpu
        self.reuse_prefix = reuse_prefix
        self.attention = choose_attention(self.device, self.dtype, self.config)
        if cache_on_cpu and hasattr(self.config, "cache_on_cpu"):  # landmark's attention has a cache of its own
            self.config.cache_on_cpu = True
        own_attention = getattr(self.config, "auto_map", None)
        self.batch_size = 1 if own_attention or cache_on_cpu else batch_size
        self.model = None
        self.clear_cache()

    def load(self):
        """Reads the weights, once. Raises ValueError if they are not complete or do not fit in memory."""
        if self.model is not None:
            return
        try:
            self.model = load_model(
                self.name_or_path, self.config, self.dtype, self.attention, self.device, self.trust_remote_code
            )
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            raise ValueError(f"{self.name_or_path} does not fit in memory: {first_line(error)}") from None
        self.eos_ids = set()
        for eos in (self.tokenizer.eos_token_id, self.model.generation_config.eos_token_id):
            self.eos_ids.update(eos if isinstance(eos, list) else [eos])
        self.eos_ids.discard(None)
        self.rope = RopeSetter(self.model)

    def clear_cache(self):
        """Drops the cache; a failed forward pass leaves it half filled."""
        self.cache = None
        self.cached_ids = []

    def set_rope(self, length: int):
        """Prepares the model for a text of `length` tokens, prompt and answer together."""
        parameters = rope_at(self.config, length)
        if parameters != self.rope.parameters:
            self.clear_cache()  # its keys have the other rope
            self.rope.set(parameters)

    def new_cache(self, on_cpu: bool = False) -> DynamicCache:
        cache = DynamicCache()
        cache.layers = [CacheLayer(on_cpu) for _ in range(self.config.num_hidden_layers)]
        return cache

    def start_prompt(self, prompt: list[int], length: int) -> int:
        """Crops the cache to the prefix it shares with the prompt; returns how many tokens that is.

        length: prompt and answer together, tokens.
        """
        known = 0
        croppable = self.cache is not None and all(isinstance(layer, CacheLayer) for layer in self.cache.layers)
        if self.reuse_prefix and croppable:
            known = shared_prefix(self.cached_ids, prompt[:-1])
        if known == 0:
            self.clear_cache()  # before memory is allocated for the next one
            self.cache = self.new_cache(self.cache_on_cpu)
        for layer in self.cache.layers:
            layer.length = known
            layer.capacity_hint = length
        self.cached_ids = prompt[:known]
        return known

    def forward(self, ids: list[list[int]], cache: DynamicCache, **kwargs) -> torch.Tensor:
        """Feeds ids, [B, n], behind the cache; returns the logits of the next token, [B, V]."""
        ids_Bn = torch.tensor(ids, device=self.device)
        return self.model(ids_Bn, past_key_values=cache, use_cache=True, logits_to_keep=1, **kwargs).logits[:, -1]

    def prefill(self, prompt: list[int], length: int) -> torch.Tensor:
        """Feeds what the cache lacks of a prompt, in chunks; returns the logits of the next token, [1, V]."""
        start = self.start_prompt(prompt, length)
        while start < len(prompt):
            end = min(start + self.prefill_chunk, len(prompt))
            if end + 1 == len(prompt):  # the prompt's last token must not come alone
                end += 1
            logits_1V = self.forward([prompt[start:end]], self.cache)
            self.cached_ids += prompt[start:end]
            self.prefilled_tokens += end - start
            start = end
        return logits_1V

    def token_budget(self) -> float:
        self.load()  # what the weights take is not free
        config = self.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        free = psutil.virtual_memory().available / 4
        if self.device.type == "cuda":
            unused = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
            free = torch.cuda.mem_get_info(self.device)[0] + unused
        bytes_per_token = 2 * config.num_hidden_layers * heads * width * getattr(torch, self.dtype).itemsize
        return 0.6 * free / bytes_per_token

    @torch.inference_mode()
    def generate_ids(
        self, prompts: list[list[int]], max_new_tokens: int, stop_strings=(), stop_ids=(), min_new_tokens: int = 0
    ) -> list[list[int]]:
        """The ids that follow each prompt, greedily. All prompts must have the same rope.

        An answer ends before EOS or one of stop_ids (both masked until min_new_tokens ids are there), as soon as its
        text contains a stop string, or at max_new_tokens. Up to rounding, it does not depend on the prompts before it
        or beside it. Raises torch.OutOfMemoryError (on a CPU RuntimeError); the next prompt can still be answered.
        """
        if not all(prompts):
            raise ValueError("an empty prompt has no continuation")
        self.load()
        stopping = Stopping(self, len(prompts), max_new_tokens, stop_strings, stop_ids, min_new_tokens)
        try:
            self.set_rope(max(map(len, prompts)) + max_new_tokens)
            self.decode_group(prompts, max_new_tokens, stopping)
        except BaseException:
            self.clear_cache()
            raise
        self.generated_tokens += sum(map(len, stopping.answers))
        return stopping.answers

    def decode_group(self, prompts: list[list[int]], max_new_tokens: int, stopping: "Stopping"):
        """Prefills the prompts one by one, then decodes them together, right-aligned."""
        lengths = [len(prompt) for prompt in prompts]
        longest, rows = max(lengths), len(prompts)
        cache = self.new_cache()
        tokens = []
        for row, prompt in enumerate(prompts):
            tokens += stopping.choose(self.prefill(prompt, len(prompt) + max_new_tokens), 0)
            if rows == 1:
                cache = self.cache
                break
            for layer, source in zip(cache.layers, self.cache.layers, strict=True):
                layer.length = longest
                layer.capacity_hint = longest + max_new_tokens
                layer.copy_row(row, rows, source)
        position_B1 = torch.tensor([lengths], device=self.device).T
        place_N = torch.arange(longest + max_new_tokens, device=self.device)
        mask_BN = (place_N >= longest - position_B1).long()
        for step in range(max_new_tokens):
            if not stopping.append(tokens):
                return
            kwargs = {}
            if rows > 1:
                mask = mask_BN[:, : longest + step + 1]
                kwargs = {"position_ids": position_B1 + step, "attention_mask": mask}
            tokens = stopping.choose(self.forward([[token] for token in tokens], cache, **kwargs), step + 1)

    def generate(
        self, prompts: list[list[int]], max_new_tokens: int, stop_strings=(), stop_ids=(), min_new_tokens: int = 0
    ) -> list[str]:
        """The text of each prompt's answer (see `generate_ids`), cut at the first stop string.

        Prompts that run out of memory together are tried in smaller groups, down to one.
        """
        texts, start = [], 0
        while start < len(prompts):
            group = prompts[start : start + self.batch_size]
            ropes = [rope_at(self.config, len(ids) + max_new_tokens) for ids in group]
            if any(rope != ropes[0] for rope in ropes):
                group = group[:1]
            try:
                answers = self.generate_ids(group, max_new_tokens, stop_strings, stop_ids, min_new_tokens)
            except (RuntimeError, MemoryError) as error:
                if len(group) == 1 or not out_of_memory(error):
                    raise
                self.oom_retries.append({"prompts": len(group), "tokens": max(map(len, group))})
                self.batch_size = len(group) // 2
                continue
            texts += [cut_at(self.decode(ids), stop_strings) for ids in answers]
            start += len(group)
        return texts


class Stopping:
    """Chooses tokens greedily and decides when each row's answer is complete.

    answers: the ids of each row so far.
    """

    def __init__(self, engine: Transformers, rows: int, max_new_tokens: int, stop_strings, stop_ids, min_new_tokens):
        self.engine = engine
        self.max_new_tokens = max_new_tokens
        self.min_new_tokens = min_new_tokens
        self.stop_strings = stop_strings
        self.end_ids = engine.eos_ids | set(stop_ids)
        self.answers = [[] for _ in range(rows)]
        self.unfinished = set(range(rows))

    def choose(self, logits_BV: torch.Tensor, step: int) -> list[int]:
        """The most probable token of each row."""
        if step < self.min_new_tokens:
            logits_BV[:, list(self.end_ids)] = -math.inf
        return logits_BV.argmax(-1).tolist()

    def append(self, tokens: list[int]) -> bool:
        """Appends one token to each unfinished row; returns whether any row is still unfinished."""
        for row in sorted(self.unfinished):
            if tokens[row] in self.end_ids:
                self.unfinished.discard(row)
                continue
            answer = self.answers[row]
            answer.append(tokens[row])
            if len(answer) == self.max_new_tokens or self.has_stop_string(answer):
                self.unfinished.discard(row)
        return bool(self.unfinished)

    def has_stop_string(self, answer: list[int]) -> bool:
        if not self.stop_strings:
            return False
        text = self.engine.decode(answer)
        return any(stop in text for stop in self.stop_strings)
