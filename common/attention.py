"""Decides which attention a model runs, and computes causal attention with a cache but without a mask tensor.

`choose_attention` is the one place that decides, for training, perplexity and the engine. "auto" takes the newest
FlashAttention that is installed and supports the card and the dtype, else PyTorch's SDPA.
"""

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available, is_flash_attn_4_available

CACHED = "causal_with_cache"
QUERY_BLOCK = 256  # queries per call of the CPU kernel, which needs a mask

# newest first: whether it is installed, compute capabilities (major) that it has kernels for
FLASH = {
    "flash_attention_4": (is_flash_attn_4_available, (9, 10, 11, 12)),
    "flash_attention_3": (is_flash_attn_3_available, (9,)),
    "flash_attention_2": (is_flash_attn_2_available, (8, 9, 10, 12)),
}
CHOICES = ("auto", "sdpa", *FLASH)
WITHOUT_CUDNN = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def is_full_attention(config) -> bool:
    """Whether every layer computes causal attention to all tokens: no sliding window, no chunks, no capped scores."""
    full = getattr(config, "sliding_window", None) is None
    if getattr(config, "layer_types", None):
        full = set(config.layer_types) == {"full_attention"}
    return full and getattr(config, "attn_logit_softcapping", None) is None


def choose_attention(requested: str, device: torch.device, dtype: str, config=None) -> str:
    """The attention implementation to load a model with, in Transformers' names.

    requested: one of CHOICES.  dtype: "float32", "bfloat16" or "float16".  config: the model's; modeling code inside a
    checkpoint computes its own attention, which uses SDPA. SDPA cannot cap scores (Gemma 2): "eager" replaces it.
    Raises ValueError if a FlashAttention is requested by name that this machine does not have or cannot run.
    """
    sdpa = "eager" if getattr(config, "attn_logit_softcapping", None) else "sdpa"
    if requested == "sdpa" or getattr(config, "auto_map", None):
        return sdpa
    major = torch.cuda.get_device_capability(device)[0] if device.type == "cuda" else None
    for name, (is_available, majors) in FLASH.items():
        if requested in ("auto", name) and dtype != "float32" and major in majors and is_available():
            return name
    if requested != "auto":
        needs = "a GPU that it supports, bfloat16, and its package as in requirements-gpu.txt"
        raise ValueError(f"--attention {requested} needs {needs}; use --attention sdpa")
    return sdpa


def sdpa_kernels(device: torch.device | None) -> list[str] | None:
    """The kernels that SDPA may choose from on this device; None if another process computes the attention."""
    if device is None:
        return None
    if device.type != "cuda":
        return ["cpu"]
    kernels = ("cudnn", "flash", "mem_efficient", "math")
    enabled = [name for name in kernels if getattr(torch.backends.cuda, f"{name}_sdp_enabled")()]
    return [name.removeprefix("mem_") for name in enabled]


def eager_kernels():
    """A context for decoding step by step: cuDNN would build a plan for every new number of keys (45 ms a step)."""
    return sdpa_kernel(WITHOUT_CUDNN)


def graph_kernels():
    """A context for capturing a decoding step: cuDNN first, the fastest (benchmarks/README.md)."""
    return sdpa_kernel([SDPBackend.CUDNN_ATTENTION, *WITHOUT_CUDNN], set_priority=True)


def causal_attention(module, q_BHnd, k_BKmd, v_BKmd, attention_mask=None, scaling=None, **kwargs):
    """Attention of n queries to the m >= n keys up to their own (lower-right causal); H query, K key-value heads.

    attention_mask: None, or for n = 1 an additive mask [B, 1, 1, m].
    Returns ([B, n, H, d], None), as Transformers expects.
    """
    B, H, n, d = q_BHnd.shape
    K, m = k_BKmd.shape[1:3]
    if n == 1:  # the query heads that share a key-value head become its queries: no key is copied
        q_BKGd = q_BHnd.reshape(B, K, H // K, d)
        out_BKGd = scaled_dot_product_attention(q_BKGd, k_BKmd, v_BKmd, attn_mask=attention_mask, scale=scaling)
        return out_BKGd.reshape(B, 1, H, d), None
    options = {"scale": scaling, "enable_gqa": H != K}
    if n == m:
        out_BHnd = scaled_dot_product_attention(q_BHnd, k_BKmd, v_BKmd, is_causal=True, **options)
    elif q_BHnd.device.type == "cuda":
        bias = causal_lower_right(n, m)
        out_BHnd = scaled_dot_product_attention(q_BHnd, k_BKmd, v_BKmd, attn_mask=bias, **options)
    else:  # the CPU has no lower-right kernel: a few queries at a time, with a small mask over the keys they may see
        blocks = []
        keys = m - n  # that the block sees
        for q_BHbd in q_BHnd.split(QUERY_BLOCK, dim=2):
            b = q_BHbd.shape[2]
            mask_bk = torch.ones(b, keys + b, dtype=torch.bool).tril(keys)
            keys += b
            k_BKkd, v_BKkd = k_BKmd[:, :, :keys], v_BKmd[:, :, :keys]
            blocks.append(scaled_dot_product_attention(q_BHbd, k_BKkd, v_BKkd, attn_mask=mask_bk, **options))
        out_BHnd = torch.cat(blocks, dim=2)
    return out_BHnd.transpose(1, 2).contiguous(), None


AttentionInterface.register(CACHED, causal_attention)  # Transformers makes no mask for it, as no mask function is given
