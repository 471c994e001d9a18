"""Self-Extend (arXiv 2401.01325) for any Llama: far keys share positions in groups, near keys keep their own.

With W = neighbor_window and G = group_size, query i sees every key k <= i, in one softmax, at the relative position
    i - k                                        if i - k < W;
    floor(i / G) - floor(k / G) + W - W / G      otherwise (the shift is a true division, any real position will do).
No training, no new weights. A text of L tokens needs positions up to (L - W) / G + W.

How it is computed: blocks of queries, each against its near and its far keys, so memory grows with the length and not
with its square. Keys are cached un-rotated; near ones are rotated at their place inside the block's window, far ones at
floor(k / G), so positions are small however long the text is, the first W tokens are the base model's own arithmetic,
and a prompt in one piece, in several, or token by token gives the same.

This file travels inside the checkpoint and needs transformers (>= 5.17) and torch only.
"""

import torch
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, LlamaModel
from transformers.models.llama.modeling_llama import LlamaAttention, rotate_half

BLOCK = 256  # queries at once, at most; any number gives the same values


class SelfExtendConfig(LlamaConfig):
    """group_size, neighbor_window: G and W of the definition above, the latter in tokens."""

    model_type = "self_extend"
    group_size: int = 64
    neighbor_window: int = 1024


def rotate(x_BHLD, rope, rows):
    """x rotated by the `rows`, a slice, of the tables of cosines and sines `rope`, each [B or 1, N, D]."""
    cos, sin = (table[:, None, rows] for table in rope)
    return x_BHLD * cos + rotate_half(x_BHLD) * sin


def attend(q_BHLD, k_BJSD, v_BJSD, visible, scale):
    """Softmax attention of H query heads on J key heads, H a multiple of J; visible: bool [B or 1, 1, L, S].

    The H / J heads that share keys become rows of one query, so that the keys are not repeated.
    """
    (B, H, L, D), J = q_BHLD.shape, k_BJSD.shape[1]
    q = q_BHLD.reshape(B, J, H // J * L, D)
    out = scaled_dot_product_attention(q, k_BJSD, v_BJSD, visible.repeat(1, 1, H // J, 1), scale=scale)
    return out.view(B, H, L, D)


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


class SelfExtendAttention(LlamaAttention):
    def forward(self, hidden_states, position_embeddings, attention_mask, past_key_values=None, **kwargs):
        """hidden_states: [B, L, hidden]; position_embeddings: cos and sin of all positions (SelfExtendModel.forward);
        attention_mask: the index of each row's first token (`first_tokens`). Returns ([B, L, hidden], None)."""
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        q = self.q_proj(hidden_states).view(shape).transpose(1, 2)
        k = self.k_proj(hidden_states).view(shape).transpose(1, 2)
        v = self.v_proj(hidden_states).view(shape).transpose(1, 2)
        if past_key_values is not None:
            k, v = past_key_values.update(k, v, self.layer_idx)
        length, end, D = q.shape[2], k.shape[2], self.head_dim
        past, far = end - length, max(0, end - self.config.neighbor_window)

        # one head is two halves wide, the first for near keys, the second for far ones; values are widened by zeros
        rope, N = position_embeddings, position_embeddings[0].shape[1]
        q_far = rotate(q, rope, slice(N - length, N))
        k_far = pad(rotate(k[:, :, :far], rope, slice(N - length - far, N - length)), (D, 0))
        v_wide = pad(v, (0, D)) if far else v
        out = []
        for i in range(past, end, BLOCK):
            rows = slice(i - past, min(i - past + BLOCK, length))
            out.append(self.block(q[:, :, rows], q_far[:, :, rows], k, k_far, v_wide, i, rope, attention_mask))
        return self.o_proj(torch.cat(out, 2).transpose(1, 2).flatten(2)), None

    def block(self, q, q_far, k, k_far, v, first, rope, start):
        """Attention of queries [B, H, l, D], of which the first has index `first`; k: [B, J, S, D], k_far: those
        rotated for far queries, behind D zeros; v: [B, J, S, 2 D] where there are far keys. Returns [B, H, l, D]."""
        W, D, end, device = self.config.neighbor_window, self.head_dim, first + q.shape[2], q.device
        i = torch.arange(first, end, device=device)[:, None]

        # near keys, at their distance from the oldest one that the block reaches
        oldest = max(0, first - W + 1)
        key = torch.arange(oldest, end, device=device)
        near = (key <= i) & (key > i - W) & (key >= start) | (key == i)  # padding sees itself: no empty softmax
        q_near = rotate(q, rope, slice(first - oldest, end - oldest))
        k_near = rotate(k[:, :, oldest:end], rope, slice(0, end - oldest))
        v_near = v[:, :, oldest:end]

        # far keys: a near key has zeros where q_far stands and a far key where q_near stands, so that each score is
        # that of its own query and one softmax serves both
        count = max(0, end - W)
        if not count:
            return attend(q_near, k_near, v_near[..., :D], near, self.scaling)
        key = torch.arange(count, device=device)
        far = (key <= i - W) & (key >= start)
        q_both = torch.cat([q_near, q_far], -1)
        k_both = torch.cat([pad(k_near, (0, D)), k_far[:, :, :count]], 2)
        v_both = torch.cat([v_near, v[:, :, :count]], 2)
        return attend(q_both, k_both, v_both, torch.cat([near, far], -1), self.scaling)[..., :D]


class SelfExtendModel(LlamaModel):
    config: SelfExtendConfig

    def __init__(self, config):
        super().__init__(config)
        for index, layer in enumerate(self.layers):
            layer.self_attn = SelfExtendAttention(config, index)
        self.post_init()

    def forward(
        self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, inputs_embeds=None, **kwargs
    ):
        """As LlamaModel. attention_mask: [B, tokens so far], 0 for padding; past_key_values: a DynamicCache."""
        given = input_ids if input_ids is not None else inputs_embeds
        (batch, length), device = given.shape[:2], given.device
        start = first_tokens(attention_mask, position_ids, past_key_values, batch, length, device)
        past = 0 if past_key_values is None else past_key_values.get_seq_length()

        # positions [B or 1, N]: those inside a block's window, those of all far keys, those of the queries to far keys
        G, W, end = self.config.group_size, self.config.neighbor_window, past + length
        window = torch.arange(W - 1 + min(length, BLOCK), device=device).expand(len(start), -1)
        group = (torch.arange(end, device=device) - start[:, 0, 0]) // G
        table = torch.cat([window, group[:, : max(0, end - W)], group[:, past:] + W - W / G], 1)
        # LlamaModel hands a 4-D mask to the layers as it is, and makes none of its own
        return super().forward(input_ids, start, table, past_key_values, inputs_embeds, **kwargs)


class SelfExtendForCausalLM(LlamaForCausalLM):
    config: SelfExtendConfig

    def __init__(self, config):
        super().__init__(config)
        self.model = SelfExtendModel(config)
        self.post_init()


AUTO_MAP = {
    "AutoConfig": SelfExtendConfig,
    "AutoModel": SelfExtendModel,
    "AutoModelForCausalLM": SelfExtendForCausalLM,
}
