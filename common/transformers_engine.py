"""Greedy answers of a checkpoint to long prompts, by Transformers.

    engine = Transformers(path)
    texts = engine.generate(prompts, 50)

What prompts have in common at their beginning is computed once: the key-value cache is cropped to the prefix that it
shares with the next prompt. Prompts are prefilled one at a time and decoded in groups (decode.py).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from run import default_device

import psutil
import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, DynamicCache

from attention import CACHED, choose_attention, eager_kernels, is_full_attention
from checkpoint import load_model
from decode import NOT_FINITE, CacheLayer, Decoder, most_probable, round_length
from engine import Engine, shared_prefix
from rope import RopeSetter, head_dim, rope_at


@dataclass(eq=False)
class Transformers(Engine):
    """Any causal language model that Transformers opens.

    The options are those of answers.add_engine_flags.  device: [this rank's GPU, else the CPU].
    batch_size: most prompts decoded together; always 1 with a cache on the CPU, and for a checkpoint whose own
    attention cannot decode over a cache of fixed size.
    """

    name_or_path: str
    trust_remote_code: bool | str = False
    dtype: str = "auto"
    device: str | torch.device | None = None
    attention: str = "auto"
    prefill_chunk: int | None = None
    cache_on_cpu: bool = False
    batch_size: int = 16
    device_map: str | None = None

    name = "transformers"
    model = None

    def __post_init__(self):
        self.device = torch.device(self.device or default_device())
        self.open_checkpoint(self.dtype, self.trust_remote_code)
        self.attention = choose_attention(self.attention, self.device, self.dtype, self.config)
        # otherwise the model's own masks and attention: no graphs, one prompt at a time
        model_class = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(self.config), None)
        takes_ours = getattr(model_class, "_supports_attention_backend", False)  # Falcon does not
        has_code = bool(getattr(self.config, "auto_map", None))
        self.own_attention = has_code or not takes_ours or not is_full_attention(self.config)
        decodes_in_graphs = getattr(self.config, "decodes_in_graphs", not self.own_attention)
        self.decodes_together = decodes_in_graphs and not self.cache_on_cpu
        if not self.decodes_together:
            self.batch_size = 1
        self.use_graph = self.device.type == "cuda" and self.device_map is None
        self.clear_cache()

    def load(self):
        """Reads the weights, once. Raises ValueError if they are not complete or do not fit in memory."""
        if self.model is not None:
            return
        options = (self.dtype, self.attention, self.device, self.device_map)
        self.model = load_model(self.name_or_path, self.config, *options)
        eos = self.model.generation_config.eos_token_id
        ids = eos if isinstance(eos, list) else [eos]
        self.eos_ids = {self.tokenizer.eos_token_id, *ids} - {None}
        self.rope = RopeSetter(self.model)
        self.measure_memory()

    # --- memory
    def measure_memory(self):
        """Sets `free_bytes`, the memory beside the weights, and the size of a prefill chunk if it is not given.

        The activations of a chunk take a quarter of a GPU's free memory; on a CPU a chunk has 2,048 tokens.
        """
        if self.device.type != "cuda":
            self.free_bytes = psutil.virtual_memory().available / 4  # others use it, too
            self.prefill_chunk = self.prefill_chunk or 2048
            return
        unused = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        self.free_bytes = torch.cuda.mem_get_info(self.device)[0] + unused
        if self.prefill_chunk is None:
            config = self.config.get_text_config()
            width = 10 * config.hidden_size + 3 * getattr(config, "intermediate_size", 4 * config.hidden_size)
            bytes_per_token = width * self.model.dtype.itemsize + 8 * config.hidden_size  # norms compute in float32
            self.prefill_chunk = max(2048, int(self.free_bytes / 4 / bytes_per_token))

    def token_budget(self) -> float:
        """Tokens whose keys and values take half of the free memory."""
        self.load()  # what the weights take is not free
        config = self.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        bytes_per_token = 2 * config.num_hidden_layers * heads * head_dim(config) * self.model.dtype.itemsize
        return 0.5 * self.free_bytes / bytes_per_token

    def clear_cache(self):
        """Drops all caches; a failed forward pass leaves them half filled."""
        self.cache = None
        self.cached_ids = []
        self.decoder = None  # of a single prompt: works on the cache's own memory
        self.group = None  # decoder of several prompts, with memory of its own

    # --- prefill
    def set_rope(self, length: int):
        """length: tokens of prompt and answer together."""
        parameters = rope_at(self.config, length)
        if parameters != self.rope.parameters:
            self.clear_cache()  # keys and graphs have the other rope
            self.rope.set(parameters)

    def cache_length(self, length: int) -> int:
        """Positions of the cache for a text of `length` tokens, rounded up; a model's own attention may need more."""
        rounded = round_length(length)
        return self.config.cache_length(rounded) if hasattr(self.config, "cache_length") else rounded

    def set_attention(self, name: str):
        if not self.own_attention:
            self.model.config._attn_implementation = name

    def forward(self, ids: list[int]) -> torch.Tensor:
        """Appends ids to the cache; returns the logits of the next token, [1, V]."""
        ids_1n = torch.tensor([ids], device=self.device)
        return self.model(ids_1n, past_key_values=self.cache, use_cache=True, logits_to_keep=1).logits[:, -1]

    def prefill(self, prompt: list[int], length: int) -> torch.Tensor:
        """Appends what the cache lacks of a prompt, in chunks; returns the logits of the next token, [1, V].

        The cache is cropped to the prefix that it shares with the prompt. length: prompt and answer together, tokens.
        """
        self.set_attention(CACHED if self.attention == "sdpa" else self.attention)
        if self.cache is None or not isinstance(self.cache.layers[0], CacheLayer):  # landmark's cannot be cropped
            self.cache = DynamicCache()
            self.cache.layers = [CacheLayer(self.cache_on_cpu) for _ in range(self.config.num_hidden_layers)]
            self.cached_ids = []
            self.decoder = None  # it would keep the memory of the cache before
        start = shared_prefix(self.cached_ids, prompt[:-1])
        for layer in self.cache.layers:
            layer.crop(start, self.cache_length(length))
        while start < len(prompt):
            end = min(start + self.prefill_chunk, len(prompt))
            if end + 1 == len(prompt):  # the prompt's last token must not come alone
                end += 1
            logits_1V = self.forward(prompt[start:end])
            self.prefilled_tokens += end - start
            start = end
        self.cached_ids = prompt
        return logits_1V

    # --- decoding
    def next_tokens(self, prompts: list[list[int]], max_new_tokens: int, banned: list[int]) -> Iterator:
        """Yields the most probable next token of each prompt `max_new_tokens` times, the first not one of `banned`."""
        lengths = list(map(len, prompts))
        longest = max(lengths) + max_new_tokens
        tokens = []
        for row, prompt in enumerate(prompts):
            logits_1V = self.prefill(prompt, len(prompt) + max_new_tokens)
            logits_1V[:, banned] = -math.inf
            tokens += most_probable(logits_1V)[:, 0].tolist()
            if len(prompts) > 1:
                self.prepare_group(len(prompts), self.cache_length(longest))
                self.group.fill(row, self.cache.layers)
        step = self.eager_step
        if self.decodes_together:
            decoder = self.group if len(prompts) > 1 else self.find_decoder()
            decoder.start(lengths, visible=round_length(longest))
            step = decoder.step
            self.set_attention(CACHED)
        yield tokens
        for _ in range(max_new_tokens - 1):
            tokens = step(tokens)
            yield tokens

    def eager_step(self, tokens: list[int]) -> list[int]:
        """Appends one token to the cached prompt; returns the most probable next token, in a list."""
        with eager_kernels():
            logits_1V = self.forward(tokens)
        return most_probable(logits_1V)[:, 0].tolist()

    def find_decoder(self) -> Decoder:
        """The decoder of the cached prompt. It keeps its graphs as long as the cache keeps its memory."""
        states = [(layer.keys, layer.values) for layer in self.cache.layers]
        if self.decoder is None or self.decoder.cache.layers[0].keys is not states[0][0]:
            self.decoder = Decoder(self.model, states, self.use_graph)
        return self.decoder

    def prepare_group(self, rows: int, capacity: int):
        """Sets `group`. It keeps its memory and its graphs as long as groups have the same shape."""
        if self.group is not None and self.group.shape == (rows, capacity):
            return
        self.group = None  # frees its memory before more is allocated
        states = []
        for layer in self.cache.layers:
            pair = (layer.keys, layer.values)
            states.append([x.new_zeros(rows, x.shape[1], capacity, x.shape[3]) for x in pair])
        self.group = Decoder(self.model, states, self.use_graph)

    @torch.inference_mode()
    def generate_ids(
        self, prompts: list[list[int]], max_new_tokens: int, stop_strings=(), stop_ids=(), min_new_tokens: int = 0
    ) -> list[list[int]]:
        """The ids that follow each prompt, greedily. All prompts must have the same rope.

        An answer ends before EOS or one of stop_ids (with min_new_tokens = 1, neither is its first token), as soon as
        its text contains a stop string, or at max_new_tokens. Raises torch.OutOfMemoryError (on a CPU RuntimeError),
        after which the next prompt can still be answered, and ValueError on NaN or infinite logits.
        """
        assert min_new_tokens in (0, 1)
        self.load()
        end_ids = self.eos_ids | set(stop_ids)
        banned = list(end_ids) if min_new_tokens else []
        answers = [[] for _ in prompts]
        unfinished = set(range(len(prompts)))
        try:
            self.set_rope(max(map(len, prompts)) + max_new_tokens)
            for tokens in self.next_tokens(prompts, max_new_tokens, banned):
                if NOT_FINITE in tokens:
                    remedy = "its weights are broken, or overflow: try --dtype bfloat16 or float32"
                    raise ValueError(f"{self.name_or_path}: the logits are not finite; {remedy}")
                for row in sorted(unfinished):
                    if tokens[row] in end_ids:
                        unfinished.remove(row)
                        continue
                    answers[row].append(tokens[row])
                    text = self.decode(answers[row]) if stop_strings else ""
                    if any(stop in text for stop in stop_strings):
                        unfinished.remove(row)
                if not unfinished:
                    break
        except BaseException:
            self.clear_cache()
            raise
        self.generated_tokens += sum(map(len, answers))
        return answers
