"""Greedy answers of a checkpoint to long prompts, by Transformers or by vLLM.

    engine = Transformers(model_path)                       or VLLM(model_path, max_length)
    [order] = engine.plan(prompts, 50)                      prompts: lists of token ids
    for group in engine.batches(order, prompts, 50):
        texts = engine.generate([prompts[i] for i in group], 50)

What prompts have in common at their beginning is computed once: one key-value cache is kept, cropped to the prefix it
shares with the next prompt, and only the rest is prefilled. In the order of `plan`, a depth-first walk of the prefix
tree, each edge of that tree is computed once. Prompts are prefilled one at a time and decoded in groups (`batches`).

The rope of a prompt is fixed before its first token, by len(prompt) + max_new_tokens (`rope_by_length` of the
checkpoint; arXiv 2409.12181, section 3). Whatever cannot be opened or run is a ValueError of one line.

needle, longbench and ruler hold copies of this file and of checkpoint.py, equal byte for byte.
"""

import copy
import importlib.util
import json
import math
import os

import psutil
import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.utils import is_flash_attn_2_available, logging

from checkpoint import open_config, parameters_at

logging.disable_progress_bar()


def shared_prefix(a: list[int], b: list[int]) -> int:
    """How many ids two lists have in common at their beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def cut(text: str, stop: list[str]) -> str:
    """The text before the first of the stop strings that it has."""
    return text[: min((text.find(s) for s in stop if s in text), default=None)]


class Engine:
    """What both engines know before any weight is read.

    tokenizer, config; record: the checkpoint's `context_extension` or None; window: the length it declares, tokens;
    dtype, attention: names of what it runs in.  prefilled, generated: tokens of prompts and of answers computed so far.
    batch: prompts in a group at most.  reduced: a note for each time that memory allowed no such group.
    """

    def __init__(self, model_path: str, dtype: str, gpu: bool, trust_remote_code: bool, **kwargs):
        self.model_path, self.trust_remote_code = str(model_path), trust_remote_code
        self.config = open_config(self.model_path, trust_remote_code, **kwargs)
        parameters_at(self.config, 2)  # an unknown rule, found now
        self.record = getattr(self.config, "context_extension", None)
        self.window = getattr(self.config, "max_position_embeddings", None)
        self.dtype = ("bfloat16" if gpu else "float32") if dtype == "auto" else dtype
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(self.model_path, trust_remote_code=trust_remote_code)
        except (OSError, ValueError, KeyError) as reason:
            raise ValueError(f"no tokenizer in {model_path}: {str(reason).strip().splitlines()[0]}") from None
        self.prefilled = self.generated = 0
        self.reduced = []

    def text(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def room(self) -> float:
        """Tokens that the caches of one group may hold; called only when there is work."""
        return math.inf

    def batches(self, order: list[int], prompts: list[list[int]], max_new_tokens: int) -> list[list[int]]:
        """Cuts a rank's order into the groups to hand to `generate`: at most `batch` prompts of one rope, their caches
        within `room`. May read the weights."""
        groups, rope, room = [], None, self.room() if order and self.batch > 1 else 0
        for i in order:
            length = len(prompts[i]) + max_new_tokens
            before, rope = rope, parameters_at(self.config, length)
            group = groups[-1] if groups else []
            longest = max([length, *(len(prompts[j]) + max_new_tokens for j in group)])
            if group and rope == before and len(group) < self.batch and (len(group) + 1) * longest <= room:
                group.append(i)
            else:
                groups.append([i])
        return groups

    def plan(self, prompts: list[list[int]], max_new_tokens: int, ranks: int = 1) -> list[list[int]]:
        """The order for the prompts, as indices: one list a rank, contiguous runs of about equal work. Prompts of one
        rope stand together, and among them those with a common beginning."""
        at = {len(ids): parameters_at(self.config, len(ids) + max_new_tokens) for ids in prompts}
        rope = [json.dumps(at[len(ids)], sort_keys=True) for ids in prompts]
        order = sorted(range(len(prompts)), key=lambda i: (rope[i], prompts[i]))
        if ranks == 1:
            return [order]
        ends = []  # of each prompt's work, in tokens
        for last, i in zip([None, *order], order, strict=False):
            known = 0 if last is None or rope[last] != rope[i] else shared_prefix(prompts[last], prompts[i])
            ends.append((ends[-1] if ends else 0) + len(prompts[i]) - known + max_new_tokens)
        shares = [[] for _ in range(ranks)]
        for i, start, end in zip(order, [0, *ends], ends, strict=False):
            shares[min(ranks - 1, ranks * (start + end) // (2 * ends[-1]))].append(i)
        return shares


class Past(DynamicLayer):
    """One layer's keys and values, [B, H, capacity, d], of which the first `length` places are filled.

    Tokens are written in place and cropped by lowering `length`; kept in CPU memory if `on_cpu`, where the layer that
    attends gets a copy on its device. `expected`: tokens to make room for when memory has to grow.
    """

    def __init__(self, on_cpu: bool):
        super().__init__()
        self.on_cpu, self.length, self.expected = on_cpu, 0, 0

    def update(self, key_states, value_states, *args, **kwargs):
        """Appends [B, H, n, d] each; returns all keys and values so far."""
        device, end = key_states.device, self.length + key_states.shape[2]
        if not self.is_initialized or end > self.keys.shape[2]:
            self.grow(max(end, self.expected), key_states, value_states)
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, :end].to(device), self.values[:, :, :end].to(device)

    def grow(self, capacity: int, key_states, value_states):
        for name, like in (("keys", key_states), ("values", value_states)):
            device = "cpu" if self.on_cpu else like.device
            grown = like.new_empty(*like.shape[:2], capacity, like.shape[3], device=device)
            if self.length:
                grown[:, :, : self.length] = getattr(self, name)[:, :, : self.length]
            setattr(self, name, grown)
        self.is_initialized = True

    def get_seq_length(self) -> int:
        return self.length

    def put(self, row: int, rows: int, other: "Past"):
        """Row `row` of `rows` becomes what `other`, of one row, holds, put to the right of `length` places."""
        for name in ("keys", "values"):
            held = getattr(other, name)[:, :, : other.length]
            if row == 0:  # zeros, because what attention gives no weight must yet be finite
                setattr(self, name, held.new_zeros(rows, held.shape[1], self.expected, held.shape[3]))
            getattr(self, name)[row, :, self.length - other.length : self.length] = held[0]
        self.is_initialized = True


def out_of_memory(reason: Exception) -> bool:
    return isinstance(reason, (torch.OutOfMemoryError, MemoryError)) or "allocate memory" in str(reason)


class Transformers(Engine):
    """Any causal language model that Transformers opens.

    dtype: auto (bfloat16 on a GPU, float32 on a CPU), float32, bfloat16 or float16.  device: by default the GPU number
    LOCAL_RANK, else the CPU.  prefill_chunk: prompt tokens in one forward pass, >= 2; memory beyond the cache grows
    with prefill_chunk times the length (sdpa masks a chunk behind a cache; FlashAttention-2 needs no mask).
    cache_on_cpu: keep the cache in CPU memory.  reuse: compute common beginnings once.  batch: most prompts decoded
    together; always 1 with a cache on the CPU, and for an attention of the checkpoint's own, which cannot mask a pad.
    """

    name = "transformers"

    def __init__(
        self,
        model_path: str,
        trust_remote_code: bool = False,
        dtype: str = "auto",
        device: str | None = None,
        prefill_chunk: int = 2048,
        cache_on_cpu: bool = False,
        reuse: bool = True,
        batch: int = 16,
    ):
        if device is None:
            device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(device)
        gpu = self.device.type == "cuda"
        if prefill_chunk < 2:  # a token that comes alone is a decoded one: landmark attends differently then
            raise ValueError(f"prefill_chunk {prefill_chunk}: must be at least 2")
        super().__init__(model_path, dtype, gpu, trust_remote_code)
        self.prefill_chunk, self.cache_on_cpu, self.reuse = prefill_chunk, cache_on_cpu, reuse
        flash = gpu and self.dtype != "float32" and is_flash_attn_2_available()
        own_code = getattr(self.config, "auto_map", None)  # brings its own attention
        self.attention = "flash_attention_2" if flash and not own_code else "sdpa"
        if cache_on_cpu and hasattr(self.config, "cache_on_cpu"):  # an attention with a cache of its own
            self.config.cache_on_cpu = True
        self.batch = 1 if own_code or cache_on_cpu else batch
        self.model = None
        self.forget()

    def load(self):
        """Reads the weights, once. Raises ValueError if they are not all there."""
        if self.model is not None:
            return
        try:
            model, report = AutoModelForCausalLM.from_pretrained(
                self.model_path,
                config=self.config,
                dtype=getattr(torch, self.dtype),
                attn_implementation=self.attention,
                use_safetensors=True,
                trust_remote_code=self.trust_remote_code,
                output_loading_info=True,
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as reason:
            raise ValueError(f"cannot load {self.model_path}: {str(reason).strip().splitlines()[0]}") from None
        if report["missing_keys"]:
            missing = ", ".join(sorted(report["missing_keys"])[:3])
            raise ValueError(f"{self.model_path} lacks the weights {missing}, ...")
        eos = [self.tokenizer.eos_token_id, model.generation_config.eos_token_id]
        self.eos = {token for one in eos for token in (one if isinstance(one, list) else [one])} - {None}
        self.model = model.eval().to(self.device)
        self.rotary = getattr(model.base_model, "rotary_emb", None)  # as loaded; never changed
        self.rope = getattr(self.config, "rope_parameters", None)

    def forget(self):
        """Drops the cache: a failed forward pass leaves it half filled."""
        self.cache, self.held = None, []  # held: the ids whose keys and values the cache has

    def set_rope(self, length: int):
        """Makes the model ready for a text of `length` tokens, prompt and answer."""
        parameters = parameters_at(self.config, length)
        if parameters == self.rope:
            return
        if self.rotary is None:
            raise ValueError(f"{self.model_path}: the rope depends on the length, but there is no rotary_emb to set")
        self.forget()  # its keys have another rope
        config = copy.deepcopy(self.config)
        config.rope_parameters = parameters
        rotary = type(self.rotary)(config).to(self.rotary.inv_freq.device)
        self.model.base_model.rotary_emb, self.rope = rotary, parameters

    def start(self, prompt: list[int], length: int) -> int:
        """Crops the cache to what it shares with the prompt, or begins an empty one; how many tokens it holds then."""
        croppable = self.cache is not None and all(isinstance(layer, Past) for layer in self.cache.layers)
        known = shared_prefix(self.held, prompt[:-1]) if self.reuse and croppable else 0
        if not known:
            self.forget()  # before memory is taken for the next
            self.cache = DynamicCache()
            self.cache.layers = [Past(self.cache_on_cpu) for _ in range(self.config.num_hidden_layers)]
        for layer in self.cache.layers:
            layer.length, layer.expected = known, length
        self.held = prompt[:known]
        return known

    def forward(self, ids: list[list[int]], cache: DynamicCache, **where) -> torch.Tensor:
        """Feeds ids, [B, n], behind the cache; logits of the tokens after them, [B, V]."""
        ids_Bn = torch.tensor(ids, device=self.device)
        return self.model(ids_Bn, past_key_values=cache, use_cache=True, logits_to_keep=1, **where).logits[:, -1]

    def prefill(self, prompt: list[int], length: int) -> torch.Tensor:
        """Feeds what the cache does not hold of a prompt, which with its answer has `length` tokens; as `forward`."""
        at = self.start(prompt, length)
        while at < len(prompt):
            end = min(at + self.prefill_chunk, len(prompt))
            end += end + 1 == len(prompt)  # no token of the prompt comes alone behind others
            logits_1V = self.forward([prompt[at:end]], self.cache)
            self.held += prompt[at:end]
            self.prefilled += end - at
            at = end
        return logits_1V

    def room(self) -> float:
        self.load()  # what the weights take is not free
        size, config = getattr(torch, self.dtype).itemsize, self.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        free = psutil.virtual_memory().available / 4
        if self.device.type == "cuda":
            unused = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
            free = torch.cuda.mem_get_info(self.device)[0] + unused
        return 0.6 * free / (2 * config.num_hidden_layers * heads * width * size)

    @torch.inference_mode()
    def answers(self, prompts: list[list[int]], max_new_tokens: int, stop=(), stop_ids=(), least=0) -> list[list[int]]:
        """The ids that follow each prompt, greedily: up to eos or one of stop_ids (left out; neither is chosen before
        `least` ids are there), to where their text holds a stop string, or max_new_tokens. But for rounding, they do
        not depend on the prompts before or beside. All have one rope.

        Raises torch.OutOfMemoryError as it comes (a CPU's allocator: RuntimeError); the next prompt can go on.
        """
        if not all(prompts):
            raise ValueError("an empty prompt has no continuation")
        self.load()
        lengths = [len(prompt) for prompt in prompts]
        longest, rows = max(lengths), len(prompts)
        ends = self.eos | set(stop_ids)

        def choose(logits_BV, step: int) -> list[int]:
            if step < least:
                logits_BV[:, list(ends)] = -math.inf
            return logits_BV.argmax(-1).tolist()

        try:
            self.set_rope(longest + max_new_tokens)
            tokens, layers = [], [Past(False) for _ in range(self.config.num_hidden_layers)]
            for row, prompt in enumerate(prompts):
                tokens += choose(self.prefill(prompt, len(prompt) + max_new_tokens), 0)
                for layer, held in zip(layers, self.cache.layers, strict=True) if rows > 1 else ():
                    layer.length, layer.expected = longest, longest + max_new_tokens
                    layer.put(row, rows, held)
            cache = self.cache
            if rows > 1:
                cache = DynamicCache()
                cache.layers = layers
            position_B1 = torch.tensor([lengths], device=self.device).T
            mask_BN = (torch.arange(longest + max_new_tokens, device=self.device) >= longest - position_B1).long()
            new, going = [[] for _ in prompts], set(range(rows))
            for step in range(max_new_tokens):
                for row in sorted(going):
                    if tokens[row] not in ends:
                        new[row].append(tokens[row])
                        ended = len(new[row]) == max_new_tokens
                        if not ended and not (stop and any(text in self.text(new[row]) for text in stop)):
                            continue
                    going.discard(row)
                if not going:
                    break
                where = {"position_ids": position_B1 + step, "attention_mask": mask_BN[:, : longest + step + 1]}
                logits_BV = self.forward([[token] for token in tokens], cache, **(where if rows > 1 else {}))
                tokens = choose(logits_BV, step + 1)
        except BaseException:
            self.forget()
            raise
        self.generated += sum(map(len, new))
        return new

    def answer(self, prompt: list[int], max_new_tokens: int, stop=()) -> list[int]:
        return self.answers([prompt], max_new_tokens, stop)[0]

    def generate(self, prompts: list[list[int]], max_new_tokens: int, stop=(), stop_ids=(), least=0) -> list[str]:
        """The text of each prompt's answer (see `answers`), cut where the first stop string begins. Of several prompts
        that run out of memory together, fewer are tried, down to one."""
        texts, at = [], 0
        while at < len(prompts):
            group = prompts[at : at + self.batch]
            ropes = [parameters_at(self.config, len(ids) + max_new_tokens) for ids in group]
            if any(rope != ropes[0] for rope in ropes):
                group = group[:1]
            try:
                texts += [self.text(ids) for ids in self.answers(group, max_new_tokens, stop, stop_ids, least)]
                at += len(group)
            except (RuntimeError, MemoryError) as reason:
                if len(group) == 1 or not out_of_memory(reason):
                    raise
                self.reduced.append({"prompts": len(group), "tokens": max(map(len, group))})
                self.batch = len(group) // 2
        return [cut(text, stop) for text in texts]


class VLLM(Engine):
    """A plain checkpoint in vLLM, many prompts at a time; its automatic prefix cache computes common beginnings once.

    max_length: the longest prompt with its answer, tokens. vLLM has one rope for all lengths and its own attention:
    checkpoints for which that is not right are refused.
    """

    name = attention = "vllm"

    def __init__(self, model_path: str, max_length: int, dtype: str = "auto", tensor_parallel_size: int = 1):
        gpu, own_code = torch.cuda.is_available(), ", which vLLM cannot run; use Transformers"
        super().__init__(model_path, dtype, gpu, trust_remote_code=False, own_code=own_code)
        if any(parameters_at(self.config, n) != self.config.rope_parameters for n in (2, max_length)):
            raise ValueError(f"the rope of {model_path} depends on the length, vLLM's does not; use Transformers")
        if self.window and max_length > self.window:
            raise ValueError(f"{max_length} tokens are beyond the {self.window} that vLLM computes positions for")
        if importlib.util.find_spec("vllm") is None:
            raise ValueError("vLLM is not installed: pip install -r requirements-gpu.txt, or use Transformers")
        self.max_length, self.tensor_parallel_size, self.model = max_length, tensor_parallel_size, None
        self.batch = 64  # recorded together; vLLM itself knows how many fit

    def load(self):
        """Starts vLLM, once."""
        if self.model is None:
            from vllm import LLM

            self.model = LLM(
                model=self.model_path,
                dtype=self.dtype,
                max_model_len=self.max_length,
                tensor_parallel_size=self.tensor_parallel_size,
                enable_prefix_caching=True,
            )

    def generate(self, prompts: list[list[int]], max_new_tokens: int, stop=(), stop_ids=(), least=0) -> list[str]:
        """As `Transformers.generate`."""
        self.load()
        from vllm import SamplingParams

        ends = {"stop": list(stop), "stop_token_ids": list(stop_ids), "min_tokens": least}
        greedy = SamplingParams(temperature=0, max_tokens=max_new_tokens, **ends)
        answers = self.model.generate([{"prompt_token_ids": ids} for ids in prompts], greedy, use_tqdm=False)
        self.prefilled += sum(len(ids) - (a.num_cached_tokens or 0) for ids, a in zip(prompts, answers, strict=True))
        made = [list(a.outputs[0].token_ids) for a in answers]  # its own text drops a last character that is not whole
        self.generated += sum(map(len, made))
        return [cut(self.text([i for i in ids if i not in stop_ids]), stop) for ids in made]
