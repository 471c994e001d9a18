"""longlora: LongLoRA (arXiv 2309.12307): Position Interpolation, trained with shifted sparse attention (S2-Attn).

While training, a row of n tokens is cut into four groups of g = n/4 and a token attends, causally, inside its group.
In the second half of the query heads the groups are shifted by g/2, so that the two halves together pass information
on; the first and the last half group then stand alone. (The paper's code rolls the sequence instead, which lets the
first tokens see the last; this form has no wrap-around.) Evaluation is full attention: the checkpoint is a plain Llama
with PI's rope. With --low_rank_training True, LoRA (r 8, alpha 16) on q, k, v, o, and embeddings and norms in full
("LoRA+", section 3.3); the adapter is merged at the end and kept in adapter/.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

from methods import option, pi

NAME = "shifted_sparse"


def blocks(q_BHnd, k_BHnd, v_BHnd, size: int, scale: float):
    """Causal attention inside consecutive blocks of `size` tokens; n is a multiple of it. [B, H, n, d] in and out."""
    B, H, n, d = q_BHnd.shape
    if n == 0:
        return q_BHnd
    # blocks become heads: one kernel call, no mask
    cut = [x.reshape(B, H * (n // size), size, d) for x in (q_BHnd, k_BHnd, v_BHnd)]
    return scaled_dot_product_attention(*cut, is_causal=True, scale=scale).view(B, H, n, d)


def shifted_sparse_attention(q_BHnd, k_BHnd, v_BHnd, scale: float, plain_heads: int | None = None):
    """S2-Attn of one row length n, a multiple of 4: [B, H, n, d] each, any dtype; returns [B, H, n, d].

    plain_heads: how many of the H heads, the first, have unshifted groups [H / 2].
    """
    n, half = q_BHnd.shape[2], q_BHnd.shape[1] // 2 if plain_heads is None else plain_heads
    group, shift = n // 4, n // 8
    plain, shifted = [[x[:, part] for x in (q_BHnd, k_BHnd, v_BHnd)] for part in (slice(None, half), slice(half, None))]
    ends = [(0, shift, shift), (shift, n - group + shift, group), (n - group + shift, n, group - shift)]
    pieces = [blocks(*(x[:, :, start:end] for x in shifted), size, scale) for start, end, size in ends if end > start]
    return torch.cat([blocks(*plain, group, scale), torch.cat(pieces, dim=2)], dim=1)


def attention(module, q_BHnd, k_BKnd, v_BKnd, attention_mask, scaling=None, **kwargs):
    """The attention function for Transformers: S2-Attn while training, SDPA otherwise. K key-value heads, H query."""
    if not module.training:
        return sdpa_attention_forward(module, q_BHnd, k_BKnd, v_BKnd, attention_mask, scaling=scaling, **kwargs)
    groups = module.num_key_value_groups
    k_BHnd, v_BHnd = repeat_kv(k_BKnd, groups), repeat_kv(v_BKnd, groups)  # halves are halves of the query heads
    heads, held = module.config.num_attention_heads, q_BHnd.shape[1]
    first = 0
    if held < heads:  # a row cut across ranks: this one has whole rows of some heads
        from deepspeed.utils import groups as ranks

        first = ranks._get_sequence_parallel_rank() * held
    plain_heads = min(max(heads // 2 - first, 0), held)
    out_BHnd = shifted_sparse_attention(q_BHnd, k_BHnd, v_BHnd, scaling, plain_heads)
    return out_BHnd.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, attention)


@dataclass
class Method(pi.Method):
    use_full_attn: bool = option(False, "full attention while training, instead of shifted sparse attention", bool)
    trainable_params: str = option("embed,norm", "with LoRA, also train parameters whose names contain these", str)

    low_rank: ClassVar[bool] = True
    exact_attention: ClassVar[bool] = False

    @property
    def document_mask(self) -> bool:
        return self.use_full_attn

    def __post_init__(self):
        super().__post_init__()
        if self.model_max_length % 4:
            raise ValueError(f"longlora needs a --model_max_length divisible by 4, not {self.model_max_length}")

    def attended_keys(self):
        if self.use_full_attn:
            return super().attended_keys()
        # Half of the heads have groups of n/4: n/8 keys on average. Of the other half's shifted groups the first and
        # the last are n/8 long: 7/64 n keys.
        return self.model_max_length * 15 / 128

    def prepare(self, model, low_rank):
        if model.config.num_attention_heads < 2 and not self.use_full_attn:
            raise ValueError("longlora shifts half of the heads, this model has one; give --use_full_attn True")
        if not self.use_full_attn:
            model.set_attn_implementation(NAME)
        if not low_rank:
            return model
        from peft import LoraConfig, get_peft_model

        parts = [part for part in self.trainable_params.split(",") if part]
        owners = {
            name.rsplit(".", 2)[-2] for name, _ in model.named_parameters() if any(part in name for part in parts)
        }
        lora = LoraConfig(
            r=8,
            lora_alpha=16,
            lora_dropout=0.0,
            bias="none",
            task_type="CAUSAL_LM",
            target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
            modules_to_save=sorted(owners),
            ensure_weight_tying=model.config.tie_word_embeddings,
        )
        return get_peft_model(model, lora)

    def finish_reads(self, model):
        return list(model.parameters()) if hasattr(model, "merge_and_unload") else []

    def finish(self, model, folder: Path):
        if hasattr(model, "merge_and_unload"):
            model.save_pretrained(folder / "adapter")
            model = model.merge_and_unload()
        model.set_attn_implementation("sdpa")
        return model
