"""Llama whose near keys keep their distance while far keys get other positions, which a rule decides.

Query i attends, in one softmax, to
    near keys k, 0 <= i - k < window                   at their distance i - k;
    far keys k, i - k >= window and k < far_keys       with RoPE at `far_query_position(i)` for the query and at
                                                       `far_key_position(k)` for the key.
A method is a config class with `window`, `far_keys` and the two positions: see modeling_lm_infinite.py.

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

BLOCK = 512  # queries computed together, at most; any number gives the same values


class NearFarConfig(LlamaConfig):
    """The rule of a method. Indices count the tokens of a row from 0; positions are integers or real numbers."""

    decodes_in_graphs = True  # a step over a cache of fixed size has fixed shapes (see `Token`)

    @property
    def window(self) -> int:
        """Keys nearer than this, in tokens, keep their distance."""
        raise NotImplementedError

    @property
    def far_keys(self) -> int | None:
        """How many of the first keys stay visible beyond the window; None for all."""
        return None

    def far_query_position(self, index):
        """Position towards far keys of the queries with these indices, int64 tensor."""
        raise NotImplementedError

    def far_key_position(self, index):
        """Position of the far keys with these indices, int64 tensor."""
        raise NotImplementedError


def rotate(x_BHLD, rope, places):
    """x with RoPE at the `places`, a slice, of the table `rope`: cos and sin, [B or 1, N, D] each."""
    cos_BND, sin_BND = rope
    return x_BHLD * cos_BND[:, None, places] + rotate_half(x_BHLD) * sin_BND[:, None, places]


def attend(q_BHLD, k_BJSD, v_BJSD, visible_BLS, scaling):
    """Softmax attention, [B, H, L, D]. The H / J query heads of a key head become its queries: no key is copied."""
    B, H, L, D = q_BHLD.shape
    J = k_BJSD.shape[1]
    q = q_BHLD.reshape(B, J, H // J * L, D)
    visible = visible_BLS[:, None].repeat(1, 1, H // J, 1)
    out = scaled_dot_product_attention(q, k_BJSD, v_BJSD, visible, scale=scaling)
    return out.view(B, H, L, D)


class Plan:
    """What one forward pass has in common for all layers.

    end: tokens in the cache after this pass.  near_count: near keys that some query needs at a time.
    index_BL: index in the cache of each query.  start_B1: that of each row's first token; None without padding.
    """

    def __init__(self, config, end, near_count, index_BL, start_B1=None):
        self.window = config.window
        self.far_keys = config.far_keys
        last_start = 0 if start_B1 is None else int(start_B1.max())
        self.start_B1 = index_BL.new_zeros(1, 1) if start_B1 is None else start_B1
        self.near_count = near_count
        self.far_count = max(0, end - self.window)
        if self.far_keys is not None:
            self.far_count = min(self.far_count, last_start + self.far_keys)

        # what RoPE needs, [B or 1, N]: positions of near keys, of far keys, and of the queries to far keys
        query_BL = index_BL - self.start_B1
        key_BS = torch.arange(self.far_count, device=index_BL.device) - self.start_B1
        near_BS = torch.arange(near_count, device=index_BL.device).expand(len(query_BL), -1)
        far_key_BS = config.far_key_position(key_BS).expand(len(query_BL), -1)
        self.positions_BN = torch.cat([near_BS, far_key_BS, config.far_query_position(query_BL)], 1)
        self.far_key_places = slice(near_count, near_count + self.far_count)
        self.far_query_start = near_count + self.far_count

    def sees_far(self, index_BL1, count):
        """Which of the first `count` keys the queries see as far keys, bool [B or 1, L, count]."""
        key_S = torch.arange(count, device=index_BL1.device)
        start_B11 = self.start_B1[..., None]
        visible_BLS = (key_S <= index_BL1 - self.window) & (key_S >= start_B11)
        if self.far_keys is not None:
            visible_BLS = visible_BLS & (key_S < start_B11 + self.far_keys)
        return visible_BLS


class Blocks(Plan):
    """Several new tokens behind `past` cached ones."""

    def __init__(self, config, past, length, start_B1, device):
        self.past = past
        self.length = length
        end = past + length
        near_count = config.window - 1 + min(BLOCK, length)
        index_1L = torch.arange(past, end, device=device)[None]
        super().__init__(config, end, near_count, index_1L, start_B1)

    def attend(self, q_BHLD, k_BJSD, v_BJSD, rope, scaling):
        """Attention of all new tokens, [B, H, L, D], to all keys so far."""
        D = q_BHLD.shape[-1]
        q_far = rotate(q_BHLD, rope, slice(self.far_query_start, None))
        k_far = rotate(k_BJSD[:, :, : self.far_count], rope, self.far_key_places)
        k_far = pad(k_far, (D, 0))
        v_wide = pad(v_BJSD, (0, D)) if self.far_count else v_BJSD
        out = []
        for start in range(0, self.length, BLOCK):
            block = slice(start, min(start + BLOCK, self.length))
            out.append(self.attend_block(block, q_BHLD, q_far, k_BJSD, k_far, v_wide, rope, scaling))
        return torch.cat(out, 2)

    def attend_block(self, block, q_BHLD, q_far, k_BJSD, k_far, v_wide, rope, scaling):
        """Attention of the queries in the slice `block`.

        One softmax over both kinds of keys: heads are twice as wide, a near key has zeros where a query has its far
        half, and a far key where it has its near half. k_far and v_wide have that width, 2 D, but v_wide
        is [B, J, S, D] if there are no far keys.
        """
        D = q_BHLD.shape[-1]
        first, end = self.past + block.start, self.past + block.stop
        oldest = max(0, first - self.window + 1)
        index_L1 = torch.arange(first, end, device=q_BHLD.device)[:, None]
        key_S = torch.arange(oldest, end, device=q_BHLD.device)
        visible = (key_S <= index_L1) & (key_S > index_L1 - self.window) & (key_S >= self.start_B1[..., None])
        visible = visible | (key_S == index_L1)  # padding sees itself: no softmax over nothing
        q = rotate(q_BHLD[:, :, block], rope, slice(first - oldest, end - oldest))
        k = rotate(k_BJSD[:, :, oldest:end], rope, slice(0, end - oldest))
        v = v_wide[:, :, oldest:end]
        count = min(self.far_count, end - self.window)
        if count <= 0:
            return attend(q, k, v[..., :D], visible, scaling)
        q = torch.cat([q, q_far[:, :, block]], -1)
        k = torch.cat([pad(k, (0, D)), k_far[:, :, :count]], 2)
        v = torch.cat([v, v_wide[:, :, :count]], 2)
        visible = torch.cat([visible, self.sees_far(index_L1, count)], -1)
        return attend(q, k, v, visible, scaling)[..., :D]


class Token(Plan):
    """One new token per row, at the index `index_B1` of a cache of `size` tokens, itself included."""

    def __init__(self, config, size, index_B1, start_B1):
        near_count = min(config.window, size)
        super().__init__(config, size, near_count, index_B1, start_B1)
        near_BS = index_B1 - near_count + 1 + torch.arange(near_count, device=index_B1.device)
        sees_near = (near_BS >= self.start_B1)[:, None]
        sees_far = self.sees_far(index_B1[..., None], self.far_count)
        self.visible_B11S = torch.cat([sees_near, sees_far.expand(len(sees_near), -1, -1)], -1)[:, None]
        self.near_index_B1S1 = near_BS.clamp(min=0)[:, None, :, None]

    def attend(self, q_BHLD, k_BJSD, v_BJSD, rope, scaling):
        """Attention of the new tokens, [B, H, 1, D], to all keys so far."""
        B, H, _, D = q_BHLD.shape
        J = k_BJSD.shape[1]
        near_index = self.near_index_B1S1.expand(B, J, -1, D)
        k_near = rotate(k_BJSD.gather(2, near_index), rope, slice(0, self.near_count))
        q_near = rotate(q_BHLD, rope, slice(self.near_count - 1, self.near_count)).view(B, J, -1, D)
        scores = q_near @ k_near.mT
        if self.far_count:
            k_far = rotate(k_BJSD[:, :, : self.far_count], rope, self.far_key_places)
            q_far = rotate(q_BHLD, rope, slice(self.far_query_start, None)).view(B, J, -1, D)
            scores = torch.cat([scores, q_far @ k_far.mT], -1)
        scores = (scores * scaling).masked_fill(~self.visible_B11S, -torch.inf)
        dtype = torch.promote_types(scores.dtype, torch.float32)
        weights = scores.softmax(-1, dtype=dtype).to(v_BJSD.dtype)
        out = weights[..., : self.near_count] @ v_BJSD.gather(2, near_index)
        if self.far_count:
            out = out + weights[..., self.near_count :] @ v_BJSD[:, :, : self.far_count]
        return out.view(B, H, 1, D)


def row_starts(attention_mask, position_ids, past, length):
    """Index of each row's first token, int64 [B, 1], or None if no row is padded on the left.

    attention_mask: [B, past + length], 0 for padding, or None.  position_ids: [B, length] or None.
    Raises ValueError for masks and positions that this attention cannot follow.
    """
    start_B1 = None
    if attention_mask is not None:
        if attention_mask.ndim != 2 or attention_mask.shape[1] != past + length:
            raise ValueError(f"attention_mask must be [batch, {past + length}], not {list(attention_mask.shape)}")
        is_token = attention_mask.bool()
        first_of_run = pad(is_token, (1, 0)).int().diff(dim=1) > 0
        if first_of_run.sum(1).max() > 1:
            raise ValueError("attention_mask has a gap between tokens; pad on the left to continue padded prompts")
        start_B1 = is_token.int().argmax(1, keepdim=True)
        start_B1 = start_B1 if start_B1.any() else None
    if position_ids is not None:
        expected = torch.arange(past, past + length, device=position_ids.device)
        wrong = position_ids != (expected if start_B1 is None else expected - start_B1)
        if attention_mask is not None:
            wrong = wrong & is_token[:, past:]
        if wrong.any():
            raise ValueError("position_ids must count each row's tokens from 0: this attention sets its own positions")
    return start_B1


class NearFarAttention(LlamaAttention):
    def forward(self, hidden_states, position_embeddings, past_key_values=None, plan=None, **kwargs):
        """hidden_states: [B, L, hidden].  position_embeddings: cos and sin, [B or 1, N, D] each, of plan.positions_BN.
        Returns ([B, L, hidden], None)."""
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        q_BHLD = self.q_proj(hidden_states).view(shape).transpose(1, 2)
        k_BJSD = self.k_proj(hidden_states).view(shape).transpose(1, 2)
        v_BJSD = self.v_proj(hidden_states).view(shape).transpose(1, 2)
        if past_key_values is not None:
            k_BJSD, v_BJSD = past_key_values.update(k_BJSD, v_BJSD, self.layer_idx)
        out_BHLD = plan.attend(q_BHLD, k_BJSD, v_BJSD, position_embeddings, self.scaling)
        return self.o_proj(out_BHLD.transpose(1, 2).flatten(2)), None


class NearFarModel(LlamaModel):
    config: NearFarConfig

    def __init__(self, config):
        super().__init__(config)
        for index, layer in enumerate(self.layers):
            layer.self_attn = NearFarAttention(config, index)
        self.post_init()

    def forward(
        self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, inputs_embeds=None, **kwargs
    ):
        """As LlamaModel, with these restrictions.

        past_key_values: a DynamicCache.  attention_mask: [B, tokens so far], 0 for padding.  position_ids: those of
        the rows' tokens, counted from 0.  A 4-D attention_mask comes with a cache of a fixed size, to which each row
        adds one token at the index `position_ids`, [B, 1]: all keys up to there are visible, by the rule.
        """
        if past_key_values is not None and not isinstance(past_key_values, DynamicCache):
            raise ValueError(f"this model needs a DynamicCache, not a {type(past_key_values).__name__}")
        tokens = input_ids if input_ids is not None else inputs_embeds
        length, device = tokens.shape[1], tokens.device
        past = 0 if past_key_values is None else past_key_values.get_seq_length()
        fixed_size = length == 1 and attention_mask is not None and attention_mask.ndim == 4
        if fixed_size:
            plan = Token(self.config, past + 1, position_ids, None)
        else:
            start_B1 = row_starts(attention_mask, position_ids, past, length)
            if length == 1 and past:
                index_11 = torch.full((1, 1), past, device=device)
                plan = Token(self.config, past + 1, index_11, start_B1)
            else:
                plan = Blocks(self.config, past, length, start_B1, device)
        # Transformers makes no mask of its own if it gets one with four dimensions
        no_mask = torch.empty(1, 1, 1, 1, device=device)
        return super().forward(
            input_ids, no_mask, plan.positions_BN, past_key_values, inputs_embeds, plan=plan, **kwargs
        )


class NearFarForCausalLM(LlamaForCausalLM):
    config: NearFarConfig

    def __init__(self, config):
        super().__init__(config)
        self.model = NearFarModel(config)
        self.post_init()
