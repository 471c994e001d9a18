"""landmark: Landmark Attention (arXiv 2305.16300): random access to the past through one landmark token a block.

Trained on short blocks of --model_max_length tokens (512 in the paper's Llama recipe) inside the base's window, so the
rope stays as it is; longer rows are cut. At inference each token retrieves --top_k blocks per head, and the text may
have any length. The attention is in modeling/modeling_landmark.py, which is part of the checkpoint.

The landmark token is appended to the base's vocabulary: one row in the embeddings and in the LM head, which starts as
the mean of the other rows. The tokenizer does not have it.
"""

import torch
from safetensors.torch import load_file

import checkpoint_writer
from methods import ContextExtension, option
from modeling.modeling_landmark import LandmarkForCausalLM

VOCABULARY = ("model.embed_tokens.weight", "lm_head.weight")  # tied embeddings have no lm_head.weight


class Method(ContextExtension):
    mem_freq: int = option(63, "text tokens between two landmarks", int)
    top_k: int = option(5, "blocks that each head retrieves for each token", int)
    landmark_id: int | None = None  # its row in an imported checkpoint; otherwise one is added

    extends_rows = False
    supports = ()
    exact_attention = False
    modeling = "landmark"

    def __post_init__(self):
        if self.model_max_length > self.original_length:
            raise ValueError(f"landmark needs a --model_max_length up to the base's window, {self.original_length}")
        block = self.mem_freq + 1
        needed = (self.top_k + 2) * block
        if self.model_max_length < needed:
            retrieved = f"--top_k {self.top_k} blocks of {block} tokens"
            raise ValueError(f"landmark: {retrieved} leave no room for the text; --model_max_length {needed} does")

    def row_tokens(self):
        return self.model_max_length + (self.model_max_length - 1) // self.mem_freq

    def saved_scores(self):
        return 5 * self.row_tokens()

    @classmethod
    def options_in_config(cls, config):
        """In LCEG's checkpoint and the paper's, the landmark is the last row of the vocabulary."""
        options = {"landmark_id": getattr(config, "landmark_id", config.vocab_size - 1)}
        if hasattr(config, "mem_freq"):
            options["mem_freq"] = config.mem_freq
        return options

    def config_fields(self):
        return {
            "mem_freq": self.mem_freq,
            "cache_top_k": self.top_k,
            "train_context_length": self.model_max_length,
            "landmark_id": self.landmark_id,
        }

    def load(self, name_or_path, config, **kwargs):
        weights = {}
        for path in sorted(checkpoint_writer.base_folder(name_or_path).glob("*.safetensors")):
            weights |= load_file(path)
        for name in weights.keys() & VOCABULARY:
            tokens = weights[name]
            landmark = tokens.float().mean(dim=0, keepdim=True).to(tokens.dtype)
            weights[name] = torch.cat([tokens, landmark])
        kwargs["attn_implementation"] = "sdpa"  # the modeling file has its own attention
        return checkpoint_writer.load_weights(LandmarkForCausalLM, name_or_path, config, state_dict=weights, **kwargs)
