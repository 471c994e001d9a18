"""Greedy answers of a plain checkpoint by vLLM, many prompts at a time (pip install -r requirements-gpu.txt)."""

import importlib.util
from dataclasses import dataclass

from engine import Engine
from rope import rope_at


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
        self.open_checkpoint(self.dtype, trust=False)
        if any(rope_at(self.config, n) != self.config.rope_parameters for n in (2, self.max_length)):
            raise ValueError(f"{self.name_or_path}: its rope depends on the length, vLLM's does not; use Transformers")
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
