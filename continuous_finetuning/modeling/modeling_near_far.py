"""Llama whose near keys keep their distance while far keys get other positions, which a rule decides.

Query i attends, in one softmax, to
    near keys k, first_near_key(i) <= k <= i           at their distance i - k;
    far keys k, k < first_near_key(i) and far_keys     with RoPE at `far_query_position(i)` for the query and at
                                                       `far_key_position(k)` for the key.
A method is a config class with these functions and numbers: see modeling_position_rules.py.

Keys are cached without RoPE and rotated when they are used. So a prompt gives the same result in one piece, in several
pieces, or token by token, and no position is larger than the rule makes it. Several tokens at once are computed in
blocks of queries (`Blocks`): memory grows with the length and not with its square. A single token (`Token`) is computed
with shapes that depend only on the size of the cache, and without waiting for the GPU: a CUDA graph can hold the step.

This file travels inside the checkpoint and needs transformers (>= 5.17) and torch only.
Suffixes: B batch, H query heads, J key heads (H is a multiple of J), L queries, S keys, N positions, D head_dim.
"""

import torch
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, LlamaModel
from transformers.models.llama.modeling_llama import LlamaAttention, rotate_half

from .several_gpus import Movable

BLOCK = 512  # queries computed together, at most; any number gives the same values


class NearFarConfig(LlamaConfig):
    """The rule of a method. A subclass defines `window`, the most near keys of a query; the functions take indices of
    tokens, int64 tensors, and the positions that they give may be real numbers. By default all far keys are at the
    distance `window`."""

    decodes_in_graphs = True  # a step over a cache of fixed size has fixed shapes (see `Token`)
    far_keys = None  # how many of the first keys stay visible beyond the near ones; None: all

    def first_near_key(self, index):
        """Index of the first near key of a query; it may be negative and never falls as the query's index grows.

        index: an int or an int64 tensor.
        """
        return index - self.window + 1

    def far_query_position(self, index):
        return index.new_full(index.shape, self.window)

    def far_key_position(self, index):
        return index.new_zeros(index.shape)

    def query_scale(self, index):
        """The factor of all scores of a query, float32 [B, L], or None for 1. index: int64 [B, L]."""
        return None


def rotate(x_BHLD, rope, start: int = 0):
    """x with RoPE at the entries `start`, `start` + 1, ... of a table, cos and sin, [2, B or 1, N, D]."""
    end = start + x_BHLD.shape[2]
    cos_B1LD = rope[0][:, None, start:end]
    sin_B1LD = rope[1][:, None, start:end]
    return x_BHLD * cos_B1LD + rotate_half(x_BHLD) * sin_B1LD


class Plan(Movable):
    """What one forward pass has in common for all layers.

    rope: gives cos and sin, [2, B or 1, N, D], of positions [B or 1, N].  end: tokens in the cache after this pass.
    near_count: near keys that are computed together.  index_BL: index in the row of each query, int64 [B or 1, L].
    """

    def __init__(self, config, rope, end, near_count, index_BL):
        self.config = config
        self.near_count = near_count
        self.index_BL = index_BL
        self.far_count = max(0, config.first_near_key(end - 1))
        if config.far_keys is not None:
            self.far_count = min(self.far_count, config.far_keys)
        self.far_S = torch.arange(self.far_count, device=index_BL.device)
        self.near_rope = rope(torch.arange(near_count, device=index_BL.device)[None])
        self.far_key_rope = rope(config.far_key_position(self.far_S)[None])
        self.far_query_rope = rope(config.far_query_position(index_BL))
        self.query_scale_BL = config.query_scale(index_BL)

    def scale_queries(self, q_BHLD):
        if self.query_scale_BL is None:
            return q_BHLD
        scaled = q_BHLD * self.query_scale_BL[:, None, :, None]
        return scaled.to(q_BHLD.dtype)

    def rotate_far(self, q_BHLD, k_BJSD):
        """The queries, and the far ones of the keys, with RoPE at their far positions."""
        q_far = rotate(q_BHLD, self.far_query_rope)
        k_far = rotate(k_BJSD[:, :, : self.far_count], self.far_key_rope)
        return q_far, k_far


class Blocks(Plan):
    """Several new tokens after `past` cached ones."""

    def __init__(self, config, rope, past, length, device):
        self.past = past
        self.length = length
        near_count = config.window - 1 + min(BLOCK, length)
        index_1L = torch.arange(past, past + length, device=device)[None]
        super().__init__(config, rope, past + length, near_count, index_1L)

    def attend(self, q_BHLD, k_BJSD, v_BJSD, scaling):
        """Attention of all new tokens, [B, H, L, D], to all keys so far."""
        B, H, _, D = q_BHLD.shape
        J = k_BJSD.shape[1]
        q_far, k_far = self.rotate_far(q_BHLD, k_BJSD)
        out = []
        for start in range(0, self.length, BLOCK):
            stop = min(start + BLOCK, self.length)
            q, k, v, visible_LS = self.block_inputs(start, stop, q_BHLD, q_far, k_BJSD, k_far, v_BJSD)
            # the H / J query heads of a key head become its queries: no key is copied
            q = q.reshape(B, J, -1, q.shape[3])
            visible = visible_LS.repeat(H // J, 1)
            attended = scaled_dot_product_attention(q, k, v, visible, scale=scaling)
            attended = attended.view(B, H, stop - start, -1)
            out.append(attended[..., :D])
        return torch.cat(out, 2)

    def block_inputs(self, start, stop, q_BHLD, q_far, k_BJSD, k_far, v_BJSD):
        """Queries, keys, values, and which keys are visible, bool [L, S], for the queries `start` ... `stop` - 1.

        If the block has far keys, heads are twice as wide, so that one softmax sees both kinds: a near key has zeros
        where a query has its far half, and a far key where a query has its near half.
        """
        D, device = q_BHLD.shape[3], q_BHLD.device
        first, end = self.past + start, self.past + stop
        first_near_key = self.config.first_near_key
        oldest = max(0, first_near_key(first))
        index_L1 = torch.arange(first, end, device=device)[:, None]
        first_near_L1 = first_near_key(index_L1)
        key_S = torch.arange(oldest, end, device=device)
        visible = (key_S <= index_L1) & (key_S >= first_near_L1)
        q = rotate(q_BHLD[:, :, start:stop], self.near_rope, first - oldest)
        k = rotate(k_BJSD[:, :, oldest:end], self.near_rope)
        v = v_BJSD[:, :, oldest:end]
        count = min(self.far_count, first_near_key(end - 1))
        if count > 0:
            far_visible = self.far_S[:count] < first_near_L1
            visible = torch.cat([visible, far_visible], 1)
            q = torch.cat([q, q_far[:, :, start:stop]], 3)
            wide_near = pad(k, (0, D))
            wide_far = pad(k_far[:, :, :count], (D, 0))
            k = torch.cat([wide_near, wide_far], 2)
            v = torch.cat([v, v_BJSD[:, :, :count]], 2)
            v = pad(v, (0, D))
        return q, k, v, visible


class Token(Plan):
    """One new token per row, at the index `index_B1` of a cache of `size` tokens, itself included."""

    def __init__(self, config, rope, size, index_B1):
        super().__init__(config, rope, size, min(config.window, size), index_B1)
        first_near_B1 = config.first_near_key(index_B1)
        oldest_B1 = index_B1 - self.near_count + 1
        near_BS = oldest_B1 + torch.arange(self.near_count, device=index_B1.device)
        near_visible_BS = near_BS >= first_near_B1.clamp(min=0)
        far_visible_BS = self.far_S < first_near_B1
        visible_BS = torch.cat([near_visible_BS, far_visible_BS], 1)
        self.hidden_B11S = ~visible_BS[:, None, None]
        self.near_index_B1S1 = near_BS.clamp(min=0)[:, None, :, None]

    def attend(self, q_BHLD, k_BJSD, v_BJSD, scaling):
        """Attention of the new tokens, [B, H, 1, D], to all keys so far."""
        B, J, _, D = k_BJSD.shape
        near, far = self.near_count, self.far_count
        near_index = self.near_index_B1S1.expand(B, J, -1, D)
        k_near = rotate(k_BJSD.gather(2, near_index), self.near_rope)
        q_near = rotate(q_BHLD, self.near_rope, near - 1)
        q_far, k_far = self.rotate_far(q_BHLD, k_BJSD)
        near_scores = q_near.view(B, J, -1, D) @ k_near.mT
        far_scores = q_far.view(B, J, -1, D) @ k_far.mT
        scores = torch.cat([near_scores, far_scores], 3) * scaling
        scores = scores.masked_fill(self.hidden_B11S, -torch.inf)
        dtype = torch.promote_types(scores.dtype, torch.float32)
        weights = scores.softmax(-1, dtype=dtype)
        near_weights, far_weights = weights.to(v_BJSD.dtype).split([near, far], dim=-1)
        near_out = near_weights @ v_BJSD.gather(2, near_index)
        far_out = far_weights @ v_BJSD[:, :, :far]
        return (near_out + far_out).view(q_BHLD.shape)


class NearFarAttention(LlamaAttention):
    def forward(self, hidden_states, past_key_values=None, plan=None, **kwargs):
        """hidden_states: [B, L, hidden]. Returns ([B, L, hidden], None)."""
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        q_BHLD = self.q_proj(hidden_states).view(shape).transpose(1, 2)
        k_BJSD = self.k_proj(hidden_states).view(shape).transpose(1, 2)
        v_BJSD = self.v_proj(hidden_states).view(shape).transpose(1, 2)
        if past_key_values is not None:
            k_BJSD, v_BJSD = past_key_values.update(k_BJSD, v_BJSD, self.layer_idx)
        out_BHLD = plan.attend(plan.scale_queries(q_BHLD), k_BJSD, v_BJSD, self.scaling)
        return self.o_proj(out_BHLD.transpose(1, 2).flatten(2)), None


class NearFarModel(LlamaModel):
    config: NearFarConfig

    def __init__(self, config):
        super().__init__(config)
        for index, layer in enumerate(self.layers):
            layer.self_attn = NearFarAttention(config, index)
        self.post_init()

    def forward(self, input_ids, attention_mask=None, position_ids=None, past_key_values=None, **kwargs):
        """As LlamaModel, for rows of one length without padding; positions follow from the row.

        past_key_values: a DynamicCache. A 4-D attention_mask comes with a cache of a fixed size, to which each row
        adds one token at the index `position_ids`, [B, 1]. Raises ValueError for padding and for other caches.
        """
        if past_key_values is not None and not isinstance(past_key_values, DynamicCache):
            raise ValueError(f"this model needs a DynamicCache, not a {type(past_key_values).__name__}")
        length, device = input_ids.shape[1], input_ids.device
        past = 0 if past_key_values is None else past_key_values.get_seq_length()
        if length == 1 and attention_mask is not None and attention_mask.ndim == 4:
            plan = Token(self.config, self.rope, past + 1, position_ids)
        elif attention_mask is not None and not (attention_mask.ndim == 2 and bool(attention_mask.all())):
            raise ValueError("this attention takes rows of equal length without padding; give them one by one")
        elif length == 1 and past:
            plan = Token(self.config, self.rope, past + 1, torch.full((1, 1), past, device=device))
        else:
            plan = Blocks(self.config, self.rope, past, length, device)
        # Transformers makes no mask of its own if it gets one with four dimensions
        no_mask = torch.empty(1, 1, 1, 1, device=device)
        return super().forward(input_ids, no_mask, plan.index_BL, past_key_values, plan=plan, **kwargs)

    def rope(self, position_BN):
        """cos and sin of positions, [2, B, N, D], in the dtype of the embeddings."""
        return torch.stack(self.rotary_emb(self.embed_tokens.weight, position_BN))


class NearFarForCausalLM(LlamaForCausalLM):
    config: NearFarConfig

    def __init__(self, config):
        super().__init__(config)
        self.model = NearFarModel(config)
        self.post_init()


def model_classes(config_class) -> dict[str, type]:
    """{auto class of Transformers: class} of a method's config class `<Name>Config`.

    The auto classes take only a model whose `config_class` is that of the checkpoint.
    """
    name = config_class.__name__.removesuffix("Config")
    members = {"config_class": config_class, "__module__": config_class.__module__}
    model = type(f"{name}Model", (NearFarModel,), members)
    with_head = type(f"{name}ForCausalLM", (NearFarForCausalLM,), members)
    return {"AutoConfig": config_class, "AutoModel": model, "AutoModelForCausalLM": with_head}
