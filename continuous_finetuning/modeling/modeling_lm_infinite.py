"""LM-Infinite (arXiv 2308.16137) for any Llama: a local window, and the first tokens seen at a fixed distance.

Query i attends, in one softmax, to
    keys k with 0 <= i - k < local_window                          at their distance i - k, ordinary rope;
    keys k < global_tokens with i - k >= local_window              all at the distance local_window;
and to no other key (the paper's Lambda-shaped mask, and its distance ceiling). No training, no new weights.

How it is computed: blocks of queries, each against the keys that its window reaches and the global ones, so memory
grows with the length and not with its square. Keys are cached un-rotated, all of them (nothing is evicted), and rotated
at their place inside the block's window: no position beyond 2 local_window is ever computed, the first window is the
base model's own arithmetic, and a prompt in one piece, in several, or token by token gives the same.

This file travels inside the checkpoint and needs transformers (>= 5.17) and torch only.
"""

import torch
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, LlamaModel
from transformers.models.llama.modeling_llama import LlamaAttention, rotate_half

BLOCK = 512  # queries at once, at most; any number gives the same values


class LMInfiniteConfig(LlamaConfig):
    """local_window, global_tokens: as in the definition above, tokens."""

    model_type = "lm_infinite"
    local_window: int = 4096
    global_tokens: int = 10


def rotate(x_BHLD, rope, positions):
    """x rotated to `positions`, a slice or index list of the table of cosines and sines `rope`, each [1, N, D]."""
    cos, sin = (table[:, None, positions] for table in rope)
    return x_BHLD * cos + rotate_half(x_BHLD) * sin


def attend(q_BHLD, k_BJSD, v_BJSD, visible, scale):
    """Softmax attention of H query heads on J key heads, H a multiple of J; visible: bool [B or 1, 1, L, S].

    The H / J heads that share keys become rows of one query, so that the keys are not repeated.
    """
    (B, H, L, D), J = q_BHLD.shape, k_BJSD.shape[1]
    q = q_BHLD.reshape(B, J, H // J * L, D)
    out = scaled_dot_product_attention(q, k_BJSD, v_BJSD, visible.repeat(1, 1, H // J, 1), scale=scale)
    return out.view(B, H, L, D)


def attend_to_both(near, far, v_near, v_far, scale):
    """One softmax over two sets of keys, each with a query of its own; near, far: (q, k, visible).

    The heads are made twice as wide: a near key has zeros where q_far stands and a far key where q_near stands, so each
    score is that of its own query. The values are widened by zeros too: fused kernels ask for one width.
    """
    (q_near, k_near, see_near), (q_far, k_far, see_far) = near, far
    D = q_near.shape[-1]
    q = torch.cat([q_near, q_far], -1)
    k = torch.cat([pad(k_near, (0, D)), pad(k_far, (D, 0))], -2)
    v = pad(torch.cat([v_near, v_far], -2), (0, D))
    return attend(q, k, v, torch.cat([see_near, see_far], -1), scale)[..., :D]


def first_tokens(attention_mask, position_ids, past_key_values, batch, length, device):
    """Index of each row's first token, int64 [B, 1, 1, 1], or [1, 1, 1, 1] of 0 if no row is padded on the left.

    attention_mask: [B, past + length], 0 for padding, or None. What this attention cannot do is a ValueError.
    """
    if past_key_values is not None and not isinstance(past_key_values, DynamicCache):
        raise ValueError(f"this model caches in a DynamicCache, not in a {type(past_key_values).__name__}")
    past = 0 if past_key_values is None else past_key_values.get_seq_length()
    start = torch.zeros(1, 1, dtype=torch.int64, device=device)
    real = torch.ones(1, 1, dtype=torch.bool, device=device)
    if attention_mask is not None:
        if attention_mask.shape != (batch, past + length):
            raise ValueError(f"attention_mask must be [{batch}, {past + length}], not {list(attention_mask.shape)}")
        real = attention_mask.to(device).bool()
        if (pad(real, (1, 0)).int().diff(dim=1) > 0).sum(1).max() > 1:
            raise ValueError("attention_mask has a gap between tokens; to go on from padded prompts, pad on the left")
        start = real.int().argmax(1, keepdim=True)
        real = real[:, past:]
    if position_ids is not None:
        expected = torch.arange(past, past + length, device=device) - start
        if ((position_ids.to(device) != expected) & real).any():
            raise ValueError("position_ids must count each row's tokens from 0: this attention has its own positions")
    return (start if start.any() else start[:1])[..., None, None]


class LMInfiniteAttention(LlamaAttention):
    def forward(self, hidden_states, position_embeddings, attention_mask, past_key_values=None, **kwargs):
        """hidden_states: [B, L, hidden]; position_embeddings: cos and sin of the positions 0, 1, ... of a block;
        attention_mask: the index of each row's first token (`first_tokens`). Returns ([B, L, hidden], None)."""
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        q = self.q_proj(hidden_states).view(shape).transpose(1, 2)
        k = self.k_proj(hidden_states).view(shape).transpose(1, 2)
        v = self.v_proj(hidden_states).view(shape).transpose(1, 2)
        if past_key_values is not None:
            k, v = past_key_values.update(k, v, self.layer_idx)
        past, end = k.shape[2] - q.shape[2], k.shape[2]
        size = min(BLOCK, self.config.local_window)
        out = [
            self.block(q[:, :, i - past : i - past + size], k, v, i, position_embeddings, attention_mask)
            for i in range(past, end, size)
        ]
        return self.o_proj(torch.cat(out, 2).transpose(1, 2).flatten(2)), None

    def block(self, q, k, v, first, rope, start):
        """Queries [B, H, l, D], of which the first has index `first`, against keys and values [B, J, S, D]."""
        window, end, device = self.config.local_window, first + q.shape[2], q.device
        i = torch.arange(first, end, device=device)[:, None]

        # local keys, at their distance from the oldest one that the block reaches
        oldest = max(0, first - window + 1)
        key = torch.arange(oldest, end, device=device)
        near = (key <= i) & (key > i - window) & (key >= start) | (key == i)  # padding sees itself: no empty softmax
        q_near = rotate(q, rope, slice(first - oldest, end - oldest))
        k_near = rotate(k[:, :, oldest:end], rope, slice(0, end - oldest))
        v_near = v[:, :, oldest:end]

        # global keys that the last query of the block, or an earlier one, no longer has in its window
        count = min(self.config.global_tokens, end - window)
        if count <= 0:
            return attend(q_near, k_near, v_near, near, self.scaling)
        key = start + torch.arange(count, device=device)  # [B or 1, 1, 1, count]
        far = key <= i - window
        index = key.clamp(max=end - 1).transpose(2, 3).expand(len(k), k.shape[1], count, k.shape[3])
        k_far, v_far = k.gather(2, index), v.gather(2, index)
        q_far, k_far = rotate(q, rope, [window]), rotate(k_far, rope, [0])
        return attend_to_both((q_near, k_near, near), (q_far, k_far, far), v_near, v_far, self.scaling)


class LMInfiniteModel(LlamaModel):
    config: LMInfiniteConfig

    def __init__(self, config):
        super().__init__(config)
        for index, layer in enumerate(self.layers):
            layer.self_attn = LMInfiniteAttention(config, index)
        self.post_init()

    def forward(
        self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, inputs_embeds=None, **kwargs
    ):
        """As LlamaModel. attention_mask: [B, tokens so far], 0 for padding; past_key_values: a DynamicCache."""
        given = input_ids if input_ids is not None else inputs_embeds
        (batch, length), device = given.shape[:2], given.device
        start = first_tokens(attention_mask, position_ids, past_key_values, batch, length, device)
        block = min(length, BLOCK, self.config.local_window)
        table = torch.arange(self.config.local_window + block, device=device)[None]
        # LlamaModel hands a 4-D mask to the layers as it is, and makes none of its own
        return super().forward(input_ids, start, table, past_key_values, inputs_embeds, **kwargs)


class LMInfiniteForCausalLM(LlamaForCausalLM):
    config: LMInfiniteConfig

    def __init__(self, config):
        super().__init__(config)
        self.model = LMInfiniteModel(config)
        self.post_init()


AUTO_MAP = {
    "AutoConfig": LMInfiniteConfig,
    "AutoModel": LMInfiniteModel,
    "AutoModelForCausalLM": LMInfiniteForCausalLM,
}
