"""Greedy answers of a checkpoint to long prompts, by Transformers or by vLLM.

    engine = Transformers(model_path)                       or VLLM(model_path, max_length)
    for i in engine.plan(prompts, 50)[0]:                   prompts: lists of token ids
        [text] = engine.generate([prompts[i]], 50)

What prompts have in common at their beginning is computed once: one key-value cache is kept, cropped to the prefix it
shares with the next prompt, and only the rest is prefilled. In the order of `plan`, a depth-first walk of the prefix
tree, each edge of that tree is computed once.

The rope of a prompt is fixed before its first token, by len(prompt) + max_new_tokens (`rope_by_length` of the
checkpoint; arXiv 2409.12181, section 3). Whatever cannot be opened or run is a ValueError of one line.

needle, longbench and ruler hold copies of this file, equal byte for byte.
"""

import copy
import importlib.util
import json
import math
import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer
from transformers.utils import is_flash_attn_2_available, logging

logging.disable_progress_bar()


# --- what a checkpoint says of itself


def open_config(name_or_path: str, trust_remote_code: bool, own_code: str = "; read it, then add --trust_remote_code"):
    """The config of a checkpoint folder or hub id. Raises ValueError, one line, if it cannot be used; reads no weights.

    own_code: what to do about a checkpoint that brings its own modeling code and is not trusted.
    """
    folder = Path(name_or_path)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ValueError(f"{folder} is no checkpoint: it has no config.json (an unfinished run has none)")
        if not any(folder.glob("*.safetensors")):
            raise ValueError(f"{folder} has no *.safetensors weights; save the model with save_pretrained first")
    elif str(name_or_path).startswith((".", "/", "~")) or str(name_or_path).count("/") > 1:
        raise ValueError(f"no folder {name_or_path}; give a checkpoint folder or a hub id")
    try:
        own = "auto_map" in PreTrainedConfig.get_config_dict(name_or_path)[0]
        refused = own and not trust_remote_code
        config = None if refused else AutoConfig.from_pretrained(name_or_path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as reason:
        raise ValueError(f"cannot open {name_or_path}: {str(reason).strip().splitlines()[0]}") from None
    if refused:
        raise ValueError(f"{name_or_path} brings its own modeling code{own_code}")
    return config


def ntk(rule: dict, length: int, head_dim: int) -> dict:
    """Dynamic NTK-aware scaling, floored at the trained length (arXiv 2409.12181, section 3; bloc97 and emozilla).

    alpha = f * max(L, T) / C - (f - 1);   rope_theta = theta * alpha^(d / (d - 2)), in float64.
    """
    factor, longest = rule["factor"], max(length, rule["trained_length"])
    alpha = factor * longest / rule["original_length"] - (factor - 1)
    return {"rope_type": "default", "rope_theta": rule["rope_theta"] * alpha ** (head_dim / (head_dim - 2))}


def frequencies(rule: dict, length: int, head_dim: int) -> dict:
    """CLEX (arXiv 2310.16450): the learned frequencies of t = ceil(L / C) windows, as `longrope` factors; with
    log_scale the scores are multiplied by ln L / ln C, whose root goes into cos and sin of queries and keys."""
    original = rule["original_length"]
    t = min(max(1, math.ceil(length / original)), len(rule["inv_freq"]))
    plain = [rule["rope_theta"] ** (-2 * j / head_dim) for j in range(head_dim // 2)]
    factors = [p / f for p, f in zip(plain, rule["inv_freq"][t - 1], strict=True)]
    return {
        "rope_type": "longrope",
        "rope_theta": rule["rope_theta"],
        "factor": float(t),
        "short_factor": factors,
        "long_factor": factors,
        "attention_factor": math.sqrt(math.log(length) / math.log(original)) if rule["log_scale"] else 1.0,
        "original_max_position_embeddings": original,
    }


RULES = {"ntk": ntk, "frequencies": frequencies}  # the values of `rule` in a checkpoint's `rope_by_length`


def parameters_at(config, length: int) -> dict | None:
    """The `rope_parameters` of a text of `length` tokens, prompt and answer; None without a rope.

    A foreign checkpoint's `dynamic` rope, which follows the length while the text grows, is taken at its end, and of a
    `longrope` one set of factors serves all of the text. Raises ValueError on a rule unknown here.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    rule = (getattr(config, "context_extension", None) or {}).get("rope_by_length")
    if not rule and rope.get("rope_type") == "dynamic":
        window = config.max_position_embeddings
        rule = {**rope, "rule": "ntk", "original_length": window, "trained_length": window}
    if not rule and rope.get("rope_type") == "longrope":
        window = rope.get("original_max_position_embeddings") or config.max_position_embeddings
        factors = rope["long_factor" if length > window else "short_factor"]
        return rope | {"short_factor": factors, "long_factor": factors}
    if not rule:
        return rope or None
    if rule.get("rule") not in RULES:
        raise ValueError(f"rope_by_length names the rule '{rule.get('rule')}'; known here: {', '.join(RULES)}")
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return RULES[rule["rule"]](rule, length, head_dim)


def shared_prefix(a: list[int], b: list[int]) -> int:
    """How many ids two lists have in common at their beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


# --- the engines


class Engine:
    """What both engines know before any weight is read.

    tokenizer, config; record: the checkpoint's `context_extension` or None; window: the length it declares, tokens;
    dtype, attention: names of what it runs in.  prefilled, generated: tokens of prompts and of answers computed so far.
    """

    batch = 1  # prompts that one call of `generate` is best given

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

    def plan(self, prompts: list[list[int]], max_new_tokens: int, ranks: int = 1) -> list[list[int]]:
        """The order for the prompts, as indices: one list a rank, contiguous runs of about equal work.

        Prompts of one rope stand together, and among them those with a common beginning.
        """

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
    """One layer's keys and values, [1, H, capacity, d], of which the first `length` places are filled.

    Tokens are written in place and cropped by lowering `length`; kept in CPU memory if `on_cpu`, where the layer that
    attends gets a copy on its device. `expected`: tokens to make room for when memory has to grow.
    """

    def __init__(self, on_cpu: bool):
        super().__init__()
        self.on_cpu, self.length, self.expected = on_cpu, 0, 0

    def update(self, key_states, value_states, *args, **kwargs):
        """Appends [1, H, n, d] each; returns all keys and values so far."""
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


class Transformers(Engine):
    """Any causal language model that Transformers opens, one prompt at a time.

    dtype: auto (bfloat16 on a GPU, float32 on a CPU), float32, bfloat16 or float16.  device: by default the GPU number
    LOCAL_RANK, else the CPU.  prefill_chunk: prompt tokens in one forward pass, >= 2; memory beyond the cache grows
    with prefill_chunk times the length (sdpa masks a chunk behind a cache; FlashAttention-2 needs no mask).
    cache_on_cpu: keep the cache in CPU memory.  reuse: compute common beginnings once.
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
        self.eos = {token for one in eos for token in (one if isinstance(one, list) else [one])}
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

    def forward(self, ids: list[int]) -> torch.Tensor:
        """Feeds ids behind the cache; logits of the token after them, [V]."""
        ids_1n = torch.tensor([ids], device=self.device)
        logits_11V = self.model(input_ids=ids_1n, past_key_values=self.cache, use_cache=True, logits_to_keep=1).logits
        self.held += ids
        return logits_11V[0, -1]

    @torch.inference_mode()
    def answer(self, prompt: list[int], max_new_tokens: int, stop: list[str] = ()) -> list[int]:
        """The ids that follow the prompt, greedily: up to eos (left out), to where their text holds a stop string, or
        max_new_tokens. But for rounding, it does not depend on the prompts before.

        Raises torch.OutOfMemoryError as it comes (a CPU's allocator: RuntimeError); the next prompt can go on.
        """
        if not prompt:
            raise ValueError("an empty prompt has no continuation")
        self.load()
        length = len(prompt) + max_new_tokens
        self.set_rope(length)
        try:
            at = self.start(prompt, length)
            while at < len(prompt):
                end = min(at + self.prefill_chunk, len(prompt))
                end += end + 1 == len(prompt)  # no token of the prompt comes alone behind others
                logits_V = self.forward(prompt[at:end])
                self.prefilled += end - at
                at = end
            new = []
            while len(new) < max_new_tokens and (token := int(logits_V.argmax())) not in self.eos:
                new.append(token)
                if len(new) == max_new_tokens or stop and any(text in self.text(new) for text in stop):
                    break
                logits_V = self.forward([token])
        except BaseException:
            self.forget()
            raise
        self.generated += len(new)
        return new

    def text(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def generate(self, prompts: list[list[int]], max_new_tokens: int, stop: list[str] = ()) -> list[str]:
        """The text of each prompt's answer (see `answer`), cut where the first stop string begins."""
        texts = [self.text(self.answer(prompt, max_new_tokens, stop)) for prompt in prompts]
        return [text[: min((text.find(s) for s in stop if s in text), default=None)] for text in texts]


class VLLM(Engine):
    """A plain checkpoint in vLLM, many prompts at a time; its automatic prefix cache computes common beginnings once.

    max_length: the longest prompt with its answer, tokens. vLLM has one rope for all lengths and its own attention:
    checkpoints for which that is not right are refused.
    """

    name = attention = "vllm"
    batch = 64

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

    def generate(self, prompts: list[list[int]], max_new_tokens: int, stop: list[str] = ()) -> list[str]:
        """As `Transformers.generate`."""
        from vllm import SamplingParams

        self.load()
        greedy = SamplingParams(temperature=0, max_tokens=max_new_tokens, stop=list(stop))
        answers = self.model.generate([{"prompt_token_ids": ids} for ids in prompts], greedy, use_tqdm=False)
        self.prefilled += sum(len(ids) - (a.num_cached_tokens or 0) for ids, a in zip(prompts, answers, strict=True))
        self.generated += sum(len(a.outputs[0].token_ids) for a in answers)
        return [a.outputs[0].text for a in answers]
