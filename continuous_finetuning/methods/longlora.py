"""longlora: LongLoRA (arXiv 2309.12307): Position Interpolation, trained with shifted sparse attention (S2-Attn).

While training, a row of n tokens is cut into four groups of g = n/4, and a token attends, causally, inside its group.
In the second half of the query heads the groups are shifted by g/2; the first and the last half group are groups of
their own. (The paper's code rolls the sequence instead, so that the first tokens see the last ones.) Evaluation is full
attention: the checkpoint is a plain Llama with PI's rope.

With --low_rank_training True: LoRA (r 8, alpha 16) on q, k, v, o, and embeddings and norms in full (section 3.3). The
adapter is merged at the end and also saved in adapter/.
"""

from pathlib import Path

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

from methods import option, pi

NAME = "shifted_sparse"


def block_attention(qkv: list[torch.Tensor], size: int, scale: float):
    """Causal attention inside consecutive blocks of `size` tokens. Inputs and result: [B, H, n, d], n % size = 0."""
    B, H, n, d = qkv[0].shape
    by_block = (B, H * (n // size), size, d)  # blocks become heads: one kernel call, no mask
    q, k, v = [x.reshape(by_block) for x in qkv]
    out = scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
    return out.view(B, H, n, d)


def shifted_sparse_attention(q_BHnd, k_BHnd, v_BHnd, scale: float):
    """S2-Attn of rows of n tokens, a multiple of 4. Inputs and result: [B, H, n, d], any dtype."""
    qkv = (q_BHnd, k_BHnd, v_BHnd)
    _, H, n, _ = q_BHnd.shape
    group, half = n // 4, n // 8
    plain = block_attention([x[:, : H // 2] for x in qkv], group, scale)
    last = n - group + half  # where the last half group begins
    pieces = []
    for start, end, size in ((0, half, half), (half, last, group), (last, n, n - last)):
        piece = [x[:, H // 2 :, start:end] for x in qkv]
        pieces.append(block_attention(piece, size, scale))
    shifted = torch.cat(pieces, dim=2)
    return torch.cat([plain, shifted], dim=1)


def attention(module, q_BHnd, k_BKnd, v_BKnd, attention_mask, scaling=None, **kwargs):
    """The attention function for Transformers: S2-Attn in training mode, else SDPA. K key-value, H query heads."""
    if not module.training:
        return sdpa_attention_forward(module, q_BHnd, k_BKnd, v_BKnd, attention_mask, scaling=scaling, **kwargs)
    k_BHnd = repeat_kv(k_BKnd, module.num_key_value_groups)
    v_BHnd = repeat_kv(v_BKnd, module.num_key_value_groups)
    out_BHnd = shifted_sparse_attention(q_BHnd, k_BHnd, v_BHnd, scaling)
    return out_BHnd.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, attention)


class Method(pi.Method):
    use_full_attn: bool = option(False, "full attention while training, instead of shifted sparse attention", bool)
    trainable_params: str = option("embed,norm", "with LoRA, also train parameters whose names contain these", str)

    llama_only = True
    exact_attention = False
    supports = ("low_rank_training",)

    def attended_keys(self):
        if self.use_full_attn:
            return super().attended_keys()
        return self.model_max_length * 15 / 128  # half of the heads: n/8, groups of n/4; the shifted half: 7/64 n

    def prepare(self, model, low_rank):
        if not self.use_full_attn:
            model.set_attn_implementation(NAME)
        if not low_rank:
            return model
        from peft import LoraConfig, get_peft_model

        parts = self.trainable_params.split(",")
        modules = set()
        for name, _ in model.named_parameters():
            if any(part and part in name for part in parts):
                modules.add(name.split(".")[-2])
        lora = LoraConfig(
            r=8,
            lora_alpha=16,
            task_type="CAUSAL_LM",
            target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
            modules_to_save=sorted(modules),
            ensure_weight_tying=model.config.tie_word_embeddings,
        )
        model = get_peft_model(model, lora)
        lora.target_modules = sorted(lora.target_modules)  # peft's set has another order in every process
        return model

    def finish_reads(self, model):
        return list(model.parameters()) if hasattr(model, "merge_and_unload") else []

    def finish(self, model, folder: Path):
        if hasattr(model, "merge_and_unload"):
            model.save_pretrained(folder / "adapter")
            model = model.merge_and_unload()
        model.set_attn_implementation("sdpa")
        return model
