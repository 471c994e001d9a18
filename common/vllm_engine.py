"""Greedy answers of a plain checkpoint by vLLM, many prompts at a time (pip install -r requirements-gpu.txt)."""

import importlib.util
import math
from dataclasses import dataclass

from run import WORLD_SIZE

from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from engine import Engine
from rope import rope_at, rotary_dim

TABLE_GIB = 8  # of a GPU for vLLM's cos and sin of every position


def check_rope(name_or_path: str, config, max_length: int) -> None:
    """Raises ValueError if vLLM (0.32) would compute another rope than Transformers, or lacks positions for it.

    Its tables have C s positions with yarn and, in float32, max_position_embeddings s with linear. Its longrope ignores
    `attention_factor`: it multiplies cos and sin by long_mscale (short_mscale within the original window), or by
    sqrt(1 + ln s / ln C), s = max_position_embeddings / C.
    """
    rope = config.rope_parameters or {}
    rope_type, factor = rope.get("rope_type"), rope.get("factor", 1.0)
    window = config.max_position_embeddings
    original = rope.get("original_max_position_embeddings") or window
    if rope_type == "yarn" and max_length > original * factor:
        raise ValueError(f"{name_or_path}: vLLM computes yarn for {original * factor:.0f} tokens, not {max_length}")
    if rope_type == "linear":
        size = 4 * window * factor * rotary_dim(config) / 2**30
        if size > TABLE_GIB:
            raise ValueError(f"{name_or_path}: vLLM's table of positions would take {size:.0f} GiB; use Transformers")
    if rope_type == "longrope":
        key = "long_mscale" if max_length > original else "short_mscale"
        default = math.sqrt(1 + max(0.0, math.log(window / original, original)))
        _, attention_factor = ROPE_INIT_FUNCTIONS[rope_type](config, "cpu")
        if not math.isclose(rope.get(key) or default, attention_factor, rel_tol=1e-6):
            remedy = f'write "{key}": {attention_factor} into its rope_parameters'
            raise ValueError(f"{name_or_path}: vLLM does not read its attention_factor; {remedy}")


@dataclass(eq=False)
class VLLM(Engine):
    """max_length: the longest prompt with its answer, tokens.
    Raises ValueError if the checkpoint has its own attention, or a rope that depends on the length: vLLM has neither.
    """

    name_or_path: str
    max_length: int
    dtype: str = "auto"
    tensor_parallel_size: int = 1

    name = attention = "vllm"
    model = None
    batch_size = 64  # answers recorded together; vLLM itself decides how many fit

    def __post_init__(self):
        if WORLD_SIZE > 1:
            raise ValueError("vllm does not run under torchrun; use --tensor_parallel_size for several GPUs")
        self.open_checkpoint(self.dtype, trust=False)
        if any(rope_at(self.config, n) != self.config.rope_parameters for n in (2, self.max_length)):
            raise ValueError(f"{self.name_or_path}: its rope depends on the length, vLLM's does not; use Transformers")
        check_rope(self.name_or_path, self.config, self.max_length)
        if self.window and self.max_length > self.window:
            raise ValueError(f"{self.max_length} tokens are beyond the {self.window} that vLLM computes positions for")
        if importlib.util.find_spec("vllm") is None:
            raise ValueError("vLLM is not installed: pip install -r requirements-gpu.txt, or use Transformers")

    def load(self):
        """Starts vLLM, once."""
        if self.model is not None:
            return
        from vllm import LLM

        self.model = LLM(
            model=self.name_or_path,
            dtype=self.dtype,
            max_model_len=self.max_length,
            tensor_parallel_size=self.tensor_parallel_size,
            enable_prefix_caching=True,
        )

    def generate_ids(self, prompts, max_new_tokens, stop_strings, stop_ids, min_new_tokens) -> list[list[int]]:
        self.load()
        from vllm import SamplingParams

        greedy = SamplingParams(
            temperature=0,
            max_tokens=max_new_tokens,
            min_tokens=min_new_tokens,
            stop=list(stop_strings),
            stop_token_ids=list(stop_ids),
        )
        answers = []
        requests = [{"prompt_token_ids": ids} for ids in prompts]
        outputs = self.model.generate(requests, greedy, use_tqdm=False)
        for prompt, output in zip(prompts, outputs, strict=True):
            self.prefilled_tokens += len(prompt) - (output.num_cached_tokens or 0)
            ids = list(output.outputs[0].token_ids)  # not its text, which lacks an incomplete last character
            self.generated_tokens += len(ids)
            if ids and ids[-1] in stop_ids:
                ids.pop()
            answers.append(ids)
        return answers
