"""Greedy answers of a checkpoint to long prompts, by Transformers.

    engine = Transformers(path)
    texts = engine.generate(prompts, 50)

What prompts have in common at their beginning is computed once: one key-value cache is kept and cropped to the prefix
that it shares with the next prompt. Prompts are prefilled one at a time and decoded in groups (decode.py).
"""

import math

import psutil
import torch
from transformers import DynamicCache

from attention import CACHED, choose_attention, eager_kernels
from checkpoint import load_model
from decode import Decoder, GroupStorage, round_length
from engine import Engine, cut_at, shared_prefix
from kv_cache import CacheLayer
from rope import RopeSetter, rope_at
from run import default_device, out_of_memory


class Transformers(Engine):
    """Any causal language model that Transformers opens.

    device: [this rank's GPU, else the CPU].  attention: one of attention.CHOICES.  prefill_chunk: prompt tokens in one
    forward pass, at least 2 [what fits in free memory].  cache_on_cpu: keep the cache in CPU memory.  reuse_prefix:
    compute common beginnings once.  device_map: "auto" spreads the model over several GPUs.
    batch_size: most prompts decoded together; always 1 with a cache on the CPU, and for a checkpoint whose own
    attention cannot decode over a cache of fixed size.
    """

    name = "transformers"

    def __init__(
        self,
        name_or_path: str,
        trust_remote_code: bool = False,
        dtype: str = "auto",
        device: str | None = None,
        attention: str = "auto",
        prefill_chunk: int | None = None,
        cache_on_cpu: bool = False,
        reuse_prefix: bool = True,
        batch_size: int = 16,
        device_map: str | None = None,
    ):
        self.device = default_device() if device is None else torch.device(device)
        super().__init__(name_or_path, dtype, self.device, trust_remote_code)
        self.prefill_chunk = prefill_chunk
        self.cache_on_cpu = cache_on_cpu
        self.reuse_prefix = reuse_prefix
        self.device_map = device_map
        self.attention = choose_attention(attention, self.device, self.dtype, self.config)
        self.own_attention = bool(getattr(self.config, "auto_map", None))
        if cache_on_cpu and hasattr(self.config, "cache_on_cpu"):  # a cache inside the checkpoint's own attention
            self.config.cache_on_cpu = True
        decodes_in_graphs = getattr(self.config, "decodes_in_graphs", not self.own_attention)
        self.decodes_together = decodes_in_graphs and not cache_on_cpu
        self.batch_size = batch_size if self.decodes_together else 1
        self.model = None
        self.clear_cache()

    def load(self):
        """Reads the weights, once. Raises ValueError if they are not complete or do not fit in memory."""
        if self.model is not None:
            return
        self.model = self.read_model()
        self.eos_ids = set()
        for eos in (self.tokenizer.eos_token_id, self.model.generation_config.eos_token_id):
            self.eos_ids.update(eos if isinstance(eos, list) else [eos])
        self.eos_ids.discard(None)
        self.rope = RopeSetter(self.model)
        self.free_bytes = self.free_memory()
        if self.prefill_chunk is None:
            self.prefill_chunk = self.largest_chunk()

    def read_model(self):
        """The model with its weights on the device."""
        return load_model(
            self.name_or_path,
            self.config,
            self.dtype,
            self.attention,
            self.device,
            self.trust_remote_code,
            self.device_map,
        )

    def set_attention(self, name: str):
        """Changes the attention of a plain model; one with its own keeps that."""
        if not self.own_attention:
            self.model.config._attn_implementation = name

    # --- memory
    def free_memory(self) -> float:
        """Bytes that are free beside the weights; of a CPU's memory, which others use too, a quarter."""
        if self.device.type != "cuda":
            return psutil.virtual_memory().available / 4
        unused = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return torch.cuda.mem_get_info(self.device)[0] + unused

    def largest_chunk(self) -> int:
        """Prompt tokens per forward pass whose activations take a quarter of the free memory; 2,048 on a CPU."""
        if self.device.type != "cuda":
            return 2048
        config = self.config.get_text_config()
        width = 10 * config.hidden_size + 3 * getattr(config, "intermediate_size", 4 * config.hidden_size)
        bytes_per_token = width * self.itemsize + 8 * config.hidden_size  # norms compute in float32
        return max(2048, int(self.free_bytes / 4 / bytes_per_token))

    @property
    def itemsize(self) -> int:
        return getattr(torch, self.dtype).itemsize

    def token_budget(self) -> float:
        self.load()  # what the weights take is not free
        config = self.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        bytes_per_token = 2 * config.num_hidden_layers * heads * width * self.itemsize
        return 0.5 * self.free_bytes / bytes_per_token

    # --- the prompt
    def clear_cache(self):
        """Drops all caches; a failed forward pass leaves them half filled."""
        self.cache = None
        self.cached_ids = []
        self.decoder = None  # of a single row: works on the cache's own memory
        self.group = GroupStorage()

    def clear_cached_ids(self):
        """Forgets what the cache holds, but keeps its memory."""
        self.cached_ids = []

    def set_rope(self, length: int):
        """Prepares the model for a text of `length` tokens, prompt and answer together."""
        parameters = rope_at(self.config, length)
        if parameters != self.rope.parameters:
            self.clear_cache()  # keys and graphs have the other rope
            self.rope.set(parameters)

    def start_prompt(self, prompt: list[int], length: int) -> int:
        """Crops the cache to the prefix it shares with the prompt; returns how many tokens that is.

        length: prompt and answer together, tokens.
        """
        reusable = self.cache is not None and all(isinstance(layer, CacheLayer) for layer in self.cache.layers)
        if not reusable:
            self.cache = DynamicCache()
            self.cache.layers = [CacheLayer(self.cache_on_cpu) for _ in range(self.config.num_hidden_layers)]
            self.cached_ids = []
        known = shared_prefix(self.cached_ids, prompt[:-1]) if self.reuse_prefix else 0
        for layer in self.cache.layers:
            layer.crop(known, self.cache_length(length))
        self.cached_ids = prompt[:known]
        return known

    def cache_length(self, length: int) -> int:
        """Places in the cache for a text of `length` tokens, rounded up; a model's own attention may need more."""
        rounded = round_length(length)
        return self.config.cache_length(rounded) if hasattr(self.config, "cache_length") else rounded

    def forward(self, ids: list[int]) -> torch.Tensor:
        """Feeds ids behind the cache; returns the logits of the next token, [1, V]."""
        ids_1n = torch.tensor([ids], device=self.device)
        return self.model(ids_1n, past_key_values=self.cache, use_cache=True, logits_to_keep=1).logits[:, -1]

    def prefill(self, prompt: list[int], length: int) -> torch.Tensor:
        """Feeds what the cache lacks of a prompt, in chunks; returns the logits of the next token, [1, V]."""
        self.set_attention(CACHED if self.attention == "sdpa" else self.attention)
        start = self.start_prompt(prompt, length)
        while start < len(prompt):
            end = min(start + self.prefill_chunk, len(prompt))
            if end + 1 == len(prompt):  # the prompt's last token must not come alone
                end += 1
            logits_1V = self.forward(prompt[start:end])
            self.cached_ids += prompt[start:end]
            self.prefilled_tokens += end - start
            start = end
        return logits_1V

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
        """Prefills the prompts one by one, then decodes them together."""
        tokens = []
        for row, prompt in enumerate(prompts):
            tokens += stopping.choose(self.prefill(prompt, len(prompt) + max_new_tokens))
            if len(prompts) > 1:
                self.copy_to_group(row, prompts, max_new_tokens)
        if self.decodes_together:
            decoder = self.start_decoder(prompts, max_new_tokens)
            step = decoder.step
            self.set_attention(CACHED)
        else:
            step = self.eager_step
        for number in range(1, max_new_tokens + 1):
            if not stopping.append(tokens):
                return
            banned = stopping.end_ids if number < stopping.min_new_tokens else set()
            tokens = step(tokens, banned)

    def eager_step(self, tokens: list[int], banned: set[int]) -> list[int]:
        """Appends one token to the cached prompt; returns the most probable next token."""
        with eager_kernels():
            logits_1V = self.forward(tokens)
        logits_1V[:, list(banned)] = -math.inf
        return logits_1V.argmax(-1).tolist()

    def copy_to_group(self, row: int, prompts: list[list[int]], max_new_tokens: int):
        """Copies the cached prompt to one row of the group's memory."""
        capacity = self.cache_length(max(map(len, prompts)) + max_new_tokens)
        self.group.reserve(self.cache.layers, len(prompts), capacity)
        keys, values = self.group.views(self.cache.layers, len(prompts), capacity)
        for layer, k, v in zip(self.cache.layers, keys, values, strict=True):
            k[row, :, : layer.length] = layer.keys[0, :, : layer.length]
            v[row, :, : layer.length] = layer.values[0, :, : layer.length]

    def start_decoder(self, prompts: list[list[int]], max_new_tokens: int) -> Decoder:
        """The decoder of a filled group, or of the cache for a single prompt, with the graphs it has already."""
        rows = len(prompts)
        visible = round_length(max(map(len, prompts)) + max_new_tokens)
        layers = self.cache.layers
        if rows == 1:
            keys, values = [layer.keys for layer in layers], [layer.values for layer in layers]
            if self.decoder is None or self.decoder.keys[0] is not keys[0]:
                self.decoder = self.new_decoder(keys, values)
            decoder = self.decoder
        else:
            if (rows, visible) not in self.group.decoders:
                capacity = self.cache_length(max(map(len, prompts)) + max_new_tokens)
                views = self.group.views(layers, rows, capacity)
                self.group.decoders[rows, visible] = self.new_decoder(*views)
            decoder = self.group.decoders[rows, visible]
        decoder.start([len(prompt) for prompt in prompts], visible)
        return decoder

    def new_decoder(self, keys: list[torch.Tensor], values: list[torch.Tensor]) -> Decoder:
        use_graph = self.device.type == "cuda" and self.device_map is None
        return Decoder(self.model, keys, values, use_graph)

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
                if not out_of_memory(error) or not self.reduce_memory(len(group)):
                    raise
                self.oom_retries.append({"prompts": len(group), "tokens": max(map(len, group))})
                continue
            texts += [cut_at(self.decode(ids), stop_strings) for ids in answers]
            start += len(group)
        return texts

    def reduce_memory(self, rows: int) -> bool:
        """After running out of memory: decodes fewer prompts together or prefills shorter chunks, if that can help."""
        if rows > 1:
            self.batch_size = rows // 2
        elif self.prefill_chunk > 1024:
            self.prefill_chunk //= 2
        else:
            return False
        return True


class Stopping:
    """Decides when each row's answer is complete.

    end_ids: EOS and the caller's stop_ids.  answers: the ids of each row so far.
    """

    def __init__(self, engine: Transformers, rows: int, max_new_tokens: int, stop_strings, stop_ids, min_new_tokens):
        self.engine = engine
        self.max_new_tokens = max_new_tokens
        self.min_new_tokens = min_new_tokens
        self.stop_strings = stop_strings
        self.end_ids = engine.eos_ids | set(stop_ids)
        self.answers = [[] for _ in range(rows)]
        self.unfinished = set(range(rows))

    def choose(self, logits_1V: torch.Tensor) -> list[int]:
        """The most probable first token of an answer."""
        if self.min_new_tokens > 0:
            logits_1V[:, list(self.end_ids)] = -math.inf
        return logits_1V.argmax(-1).tolist()

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
