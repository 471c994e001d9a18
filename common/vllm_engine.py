"""Greedy answers of a plain checkpoint by vLLM, many prompts at a time (pip install -r requirements-gpu.txt)."""

import importlib.util

from engine import Engine, cut_at
from rope import rope_at
from run import default_device


class VLLM(Engine):
    """vLLM in this process; its prefix cache computes common beginnings once.

    max_length: the longest prompt with its answer, tokens. vLLM uses one rope for all lengths and its own attention, so
    checkpoints that need another are refused with a ValueError.
    """

    name = attention = "vllm"

    def __init__(self, name_or_path: str, max_length: int, dtype: str = "auto", tensor_parallel_size: int = 1):
        remedy = "vLLM cannot run it; use Transformers"
        super().__init__(name_or_path, dtype, default_device(), trust_remote_code=False, remedy=remedy)
        if any(rope_at(self.config, n) != self.config.rope_parameters for n in (2, max_length)):
            raise ValueError(f"the rope of {name_or_path} depends on the length, vLLM's does not; use Transformers")
        if self.window and max_length > self.window:
            raise ValueError(f"{max_length} tokens are beyond the {self.window} that vLLM computes positions for")
        if importlib.util.find_spec("vllm") is None:
            raise ValueError("vLLM is not installed: pip install -r requirements-gpu.txt, or use Transformers")
        self.max_length = max_length
        self.tensor_parallel_size = tensor_parallel_size
        self.model = None
        self.batch_size = 64  # answers recorded together; vLLM itself decides how many fit

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

    def generate(
        self, prompts: list[list[int]], max_new_tokens: int, stop_strings=(), stop_ids=(), min_new_tokens: int = 0
    ) -> list[str]:
        """The text of each prompt's answer; see `Transformers.generate`."""
        self.load()
        from vllm import SamplingParams

        greedy = SamplingParams(
            temperature=0,
            max_tokens=max_new_tokens,
            min_tokens=min_new_tokens,
            stop=list(stop_strings),
            stop_token_ids=list(stop_ids),
        )
        outputs = self.model.generate([{"prompt_token_ids": ids} for ids in prompts], greedy, use_tqdm=False)
        texts = []
        for prompt, output in zip(prompts, outputs, strict=True):
            self.prefilled_tokens += len(prompt) - (output.num_cached_tokens or 0)
            # its ids rather than its text, which lacks a last character that is not complete
            ids = list(output.outputs[0].token_ids)
            self.generated_tokens += len(ids)
            texts.append(cut_at(self.decode([token for token in ids if token not in stop_ids]), stop_strings))
        return texts
