"""Landmark attention for Llama (arXiv 2305.16300): random access to the past through one landmark token per block.

The text is cut into blocks of mem_freq tokens, each closed by a landmark token. Callers never see landmarks: the model
inserts them into its input and removes them from its output. A row of the model (text and landmarks) has blocks of
b = mem_freq + 1 tokens. By the paper's grouped softmax a query attends
  - to the tokens of its own block together with the landmarks of the earlier blocks, and
  - to the tokens of an earlier block with weight (softmax inside that block) x (weight of its landmark).

Training: `model_max_length` tokens of text are one row, every earlier block is visible, RoPE is the base model's, and
the loss includes the landmarks. A last block that is exactly full gets no landmark.

Inference: a query sees its local section, which begins at a block boundary, and the `cache_top_k` blocks before it
whose landmarks score highest, chosen for each layer, head and token. The local section begins
  - in a call with several tokens: at the last multiple of `chunk_length` from the start of the row, so a prompt gives
    the same values in one piece or in pieces, wherever they are cut;
  - in a call with a single token and a cache (decoding): at the token's own block, so all full blocks can be retrieved.
The text token that fills a block is fed with its landmark, and the landmark's hidden state predicts the next token.

Positions (the paper's "stingy" mapping): RoPE only sees the distances of training. With k = min(cache_top_k, number of
earlier blocks), k + 1 slots of b positions lie directly before the local section. To be scored, the k latest blocks
take slots 1 ... k and all older ones slot 0. The chosen blocks are then laid out by age in slots 0, 1, ..., one slot
later if they are among the k latest. Of equal scores the later block wins; in layer 0 all older landmarks are equal.

Suffixes: B batch, H key-value heads, R query heads of one of them, n queries, G blocks of b keys, d head_dim.
"""

import torch
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.llama.modeling_llama import LlamaAttention, rotate_half

from .landmark_cache import Piece, Step, take_blocks, with_landmark_layers

PIECE = 256  # tokens computed together; limits the memory of the retrieved keys and changes no result


class LandmarkConfig(LlamaConfig):
    """landmark_id: the landmark's token id; None appends one to the vocabulary.  mem_freq: text tokens per block.
    cache_top_k: blocks retrieved.  train_context_length: text tokens of a training row."""

    model_type = "llama_landmark"
    decodes_in_graphs = True  # a step over a cache of fixed size has fixed shapes (see `Step`)

    landmark_id: int | None = None
    mem_freq: int = 63
    cache_top_k: int = 5
    train_context_length: int = 512

    def __post_init__(self, **kwargs):
        if self.landmark_id is None:
            self.landmark_id, self.vocab_size = self.vocab_size, self.vocab_size + 1
        super().__post_init__(**kwargs)

    @property
    def block(self) -> int:
        """b, text tokens and landmark."""
        return self.mem_freq + 1

    @property
    def chunk_length(self) -> int:
        """Longest local section, tokens: the whole blocks of a training row less k + 1 slots."""
        blocks = self.train_context_length // self.block - (self.cache_top_k + 1)
        return blocks * self.block

    def cache_length(self, length: int) -> int:
        """Places in the cache for a text of `length` tokens, its landmarks and the next token, in whole blocks."""
        return ((length + 1) // self.mem_freq + 1) * self.block


def grouped_softmax(scores_Gb, visible_Gb, own_G):
    """Attention weights of queries over G blocks of b keys whose last key is the landmark.

    scores_Gb: [..., G, b].  visible_Gb: bool, whether the query sees the key.  own_G: bool, whether the query is in
    that block. Returns [..., G, b], at least float32; 0 for landmarks and hidden keys; the sum over (G, b) is 1.

    The paper's groups as two levels: a softmax inside every block, times a softmax over blocks. In the latter an
    earlier block has its landmark's score, and the own block the log-sum-exp of its tokens.
    """
    dtype = torch.promote_types(scores_Gb.dtype, torch.float32)
    lowest = torch.finfo(dtype).min  # -inf would give nan - nan
    scores_Gb = scores_Gb.to(dtype).masked_fill(~visible_Gb, lowest)
    tokens_Gf = scores_Gb[..., :-1]
    landmark_G = scores_Gb[..., -1]
    block_G = torch.where(own_G, tokens_Gf.logsumexp(-1), landmark_G)
    weights_Gf = block_G.softmax(-1)[..., None] * tokens_Gf.softmax(-1)
    return F.pad(weights_Gf, (0, 1))


def rotate(x, positions, rope):
    """RoPE: x [..., d] rotated to integer positions, which broadcast against x[..., 0]; rope: (cos, sin) [P, d]."""
    cos, sin = rope[0][positions], rope[1][positions]
    return (x * cos + rotate_half(x) * sin).to(x.dtype)


class LandmarkAttention(LlamaAttention):
    def forward(self, hidden_states, position_embeddings, plan, past_key_values=None, **kwargs):
        """hidden_states: [B, n, D].  plan: the `Piece` or `Step` that says where these tokens are.
        position_embeddings: (cos, sin) by position, [P, d].  past_key_values: None in training, when the row is
        complete."""
        B, n, _ = hidden_states.shape
        b, d, rope = self.config.block, self.head_dim, position_embeddings
        q = self.q_proj(hidden_states).view(B, n, -1, d).transpose(1, 2)
        k = self.k_proj(hidden_states).view(B, n, -1, d).transpose(1, 2)
        v = self.v_proj(hidden_states).view(B, n, -1, d).transpose(1, 2)
        q_BHRnd = q.reshape(B, k.shape[1], -1, n, d) * self.scaling
        k = rotate(k, plan.place_in_block, rope)
        retrieved = None
        if past_key_values is None:
            keys_Gb = F.pad(k, (0, 0, 0, -n % b)).unflatten(2, (-1, b))
            values_Gb = F.pad(v, (0, 0, 0, -n % b)).unflatten(2, (-1, b))
        else:
            layer = past_key_values.layers[self.layer_idx]
            keys_Gb, values_Gb = plan.update(layer, k, v)
            landmarks_BHGd = plan.landmarks(layer)
            if landmarks_BHGd.shape[2]:
                retrieved = self.retrieve(q_BHRnd, plan, layer, landmarks_BHGd, rope)
        out_BHRnd = self.attend(q_BHRnd, plan.query_B11n, keys_Gb, values_Gb, retrieved, rope)
        return self.o_proj(out_BHRnd.flatten(1, 2).transpose(1, 2).reshape(B, n, -1)), None

    def attend(self, q_BHRnd, query_B11n, keys_Gb, values_Gb, retrieved, rope):
        """Attention to the local section, keys and values [B, H, G, b, d], and to the retrieved blocks if there are
        any (see `retrieve`); returns [B, H, R, n, d]. query_B11n: places in the local section."""
        b, G, device = self.config.block, keys_Gb.shape[2], q_BHRnd.device
        block_start_G1 = (torch.arange(G, device=device) * b)[:, None]
        keys_BHmd = rotate(keys_Gb, block_start_G1, rope).flatten(2, 3)
        scores_BHRnm = rotate(q_BHRnd, query_B11n, rope) @ keys_BHmd[:, :, None].mT
        scores_Gb = scores_BHRnm.unflatten(-1, (G, b))
        key_Gb = torch.arange(G * b, device=device).view(G, b)
        visible_Gb = (key_Gb <= query_B11n[..., None, None]).expand_as(scores_Gb)
        own_G = key_Gb[:, 0] == (query_B11n - query_B11n % b)[..., None]
        k = 0
        if retrieved is not None:
            q_BHRnkd, keys_BHRnkbd, values_BHRnkbd, exists_BHRnk = retrieved
            k = keys_BHRnkbd.shape[4]
            scores_kb = (keys_BHRnkbd @ q_BHRnkd[..., None]).squeeze(-1)
            visible_kb = exists_BHRnk[..., None].expand_as(scores_kb)
            scores_Gb = torch.cat([scores_kb, scores_Gb], dim=-2)
            visible_Gb = torch.cat([visible_kb, visible_Gb], dim=-2)
            own_G = F.pad(own_G, (k, 0))

        weights_Gb = grouped_softmax(scores_Gb, visible_Gb, own_G).to(values_Gb.dtype)
        weights_Gb = F.dropout(weights_Gb, self.attention_dropout, self.training)
        out_BHRnd = weights_Gb[..., k:, :].flatten(-2) @ values_Gb.flatten(2, 3)[:, :, None]
        if retrieved is not None:
            weights_1m = weights_Gb[..., :k, :].flatten(-2)[..., None, :]
            out_BHRnd = out_BHRnd + (weights_1m @ values_BHRnkbd.flatten(4, 5)).squeeze(-2)
        return out_BHRnd

    def retrieve(self, q_BHRnd, plan, layer, landmarks_BHGd, rope):
        """The k = cache_top_k best earlier blocks for each query, by age: queries rotated for each of them
        [B, H, R, n, k, d], keys and values [B, H, R, n, k, b, d], and whether there is such a block [B, H, R, n, k]."""
        b, k, device = self.config.block, self.config.cache_top_k, q_BHRnd.device
        B, H, G, _ = landmarks_BHGd.shape
        slots = torch.arange(k + 1, device=device)
        distance_B11ns = plan.query_B11n[..., None] + (k + 1 - slots) * b
        q_BHRnsd = rotate(q_BHRnd[..., None, :], distance_B11ns, rope)

        # candidates, by age: the older blocks, all in slot 0, and the k latest ones in slots 1 ... k
        first_latest_B1 = plan.earlier_B1 - k
        older_G = torch.arange(G, device=device)
        latest_Bk = first_latest_B1 + slots[:k]
        block_BC = torch.cat([older_G.expand(len(latest_Bk), -1), latest_Bk], 1)
        exists_BC = torch.cat([older_G < first_latest_B1, latest_Bk >= 0], 1)
        block_BC = block_BC.masked_fill(~exists_BC, -1)[:, None, None, None]
        older = q_BHRnsd[..., 0, :] @ landmarks_BHGd[:, :, None].mT
        if self.layer_idx == 0:  # there a landmark's key is its embedding's: all scores are equal but for rounding
            older = older[..., :1].expand_as(older)
        latest_index = latest_Bk.clamp(min=0)[:, None, :, None]
        latest_BHkd = landmarks_BHGd.take_along_dim(latest_index, dim=2)
        latest = (q_BHRnsd[..., 1:, :] * latest_BHkd[:, :, None, None]).sum(-1)
        scores_BHRnC = torch.cat([older, latest], dim=-1).masked_fill(block_BC < 0, float("-inf"))

        newest_first = scores_BHRnC.flip(-1)
        ranked = newest_first.sort(dim=-1, descending=True, stable=True).indices
        candidate_BHRnk = G + k - 1 - ranked[..., :k]
        chosen_BHRnk = block_BC.take_along_dim(candidate_BHRnk, dim=-1).sort(dim=-1).values
        slot_BHRnk = slots[:k] + (chosen_BHRnk >= first_latest_B1[:, None, None, None])
        q_BHRnkd = q_BHRnsd.take_along_dim(slot_BHRnk[..., None], dim=-2)
        index = chosen_BHRnk.clamp(min=0)
        return q_BHRnkd, take_blocks(layer.keys, index, b), take_blocks(layer.values, index, b), chosen_BHRnk >= 0


class LandmarkModel(LlamaModel):
    config_class = LandmarkConfig

    def __init__(self, config):
        super().__init__(config)
        for i, layer in enumerate(self.layers):
            layer.self_attn = LandmarkAttention(config, i)
            layer.self_attn.scaling *= self.rotary_emb.attention_scaling**2  # some ropes scale cos and sin
        self.post_init()

    def forward(self, input_ids, attention_mask=None, position_ids=None, past_key_values=None, **kwargs):
        """input_ids: [B, n], text, all rows of one length without padding; positions follow from the row.

        In eval mode, last_hidden_state [B, n, D] is that of the text tokens and past_key_values continues from call to
        call. In training mode it is that of the row, [B, n + (n - 1) // mem_freq, D]: text and landmarks. A 4-D
        attention_mask comes with a cache of a fixed size, to which each row adds one token, the text's token number
        `position_ids`, [B, 1]. Raises ValueError for padding.
        """
        if attention_mask is not None and attention_mask.ndim == 4 and input_ids.shape[1] == 1:
            hidden = self.step(input_ids, position_ids, past_key_values)
            return BaseModelOutputWithPast(last_hidden_state=hidden, past_key_values=past_key_values)
        if attention_mask is not None and not (attention_mask.ndim == 2 and bool(attention_mask.all())):
            raise ValueError("this attention takes rows of equal length without padding; give them one by one")
        if self.training:
            row_Bn, _ = insert(input_ids, self.config.landmark_id, self.config.mem_freq)
            piece = Piece(self.config.block, 0, row_Bn.shape[1], 0, row_Bn.device)
            return BaseModelOutputWithPast(last_hidden_state=self.run(row_Bn, piece))
        cache = with_landmark_layers(past_key_values, self.config)
        return BaseModelOutputWithPast(last_hidden_state=self.read(input_ids, cache), past_key_values=cache)

    def read(self, input_ids, cache):
        """Hidden states [B, n, D] of the text tokens that continue the cached text."""
        b, f, n = self.config.block, self.config.mem_freq, input_ids.shape[1]
        seen = cache.get_seq_length()
        row_Bn, last_n = insert(input_ids, self.config.landmark_id, f, seen, after_last=True)
        start = seen + seen // f
        end = start + row_Bn.shape[1]
        section = b if n == 1 and seen else self.config.chunk_length
        for layer in cache.layers:
            layer.capacity_hint = max(layer.capacity_hint, end)
        hidden = []
        place = start
        while place < end:
            local = place // section * section
            stop = min(end, local + section, place + PIECE)
            piece = Piece(b, place, stop - place, local, row_Bn.device)
            hidden.append(self.run(row_Bn[:, place - start : stop - start], piece, cache))
            place = stop
        hidden_BnD = torch.cat(hidden, dim=1)
        return hidden_BnD[:, last_n.to(hidden_BnD.device)]

    def step(self, token_B1, index_B1, cache):
        """Hidden states [B, 1, D] of one more text token per row, number `index_B1` of its text; see `Step`."""
        f = self.config.mem_freq
        row_B2 = torch.cat([token_B1, torch.full_like(token_B1, self.config.landmark_id)], 1)
        plan = Step(self.config.block, index_B1 + index_B1 // f)
        hidden_B2D = self.run(row_B2, plan, cache)
        fills_block_B1 = ((index_B1 + 1) % f == 0)[..., None]
        return torch.where(fills_block_B1.to(hidden_B2D.device), hidden_B2D[:, 1:], hidden_B2D[:, :1])

    def run(self, row_Bn, plan, cache=None):
        """Hidden states [B, n, D] of tokens of the row, int64 [B, n]."""
        hidden = self.embed_tokens(row_Bn)
        rope = self.rope()
        for layer in self.layers:
            hidden = layer(hidden, position_embeddings=rope, plan=plan, past_key_values=cache)
        return self.norm(hidden)

    def rope(self):
        """(cos, sin), float32 [P, d] each, of the base model's RoPE at all P positions of a training row."""
        length = self.config.train_context_length
        inv_freq = self.rotary_emb.inv_freq.float()
        position_P = torch.arange(length + length // self.config.mem_freq, device=inv_freq.device)
        angles_Pd = (position_P[:, None] * inv_freq).repeat(1, 2)
        return angles_Pd.cos(), angles_Pd.sin()  # keys are rotated twice: unscaled, see __init__


def insert(text_Bn, value: int, mem_freq: int, seen: int = 0, after_last: bool = False):
    """Puts `value` after every mem_freq tokens of a text, `seen` tokens of which came earlier.

    Returns the row, [B, n + landmarks], and int64 [n]: for each text token its place in the row, or that of the
    landmark after it. after_last: also close a block that the last token fills.
    """
    t = torch.arange(seen, seen + text_Bn.shape[1], device=text_Bn.device)
    place = t + t // mem_freq - (seen + seen // mem_freq)
    end = seen + text_Bn.shape[1]
    landmarks = (end if after_last else end - 1) // mem_freq - seen // mem_freq
    row = text_Bn.new_full((text_Bn.shape[0], text_Bn.shape[1] + landmarks), value)
    row[:, place] = text_Bn
    return row, place + ((t + 1) % mem_freq == 0)


class LandmarkForCausalLM(LlamaForCausalLM):
    """In training mode, logits are those of the row with its landmarks: compare them with `row_labels`."""

    config_class = LandmarkConfig
    accepts_loss_kwargs = False  # Trainer counts the text's tokens; the loss is a mean over the row's

    def __init__(self, config):
        super().__init__(config)
        self.model = LandmarkModel(config)
        self.lm_head.register_forward_hook(self.hide_landmark)
        self.post_init()

    def hide_landmark(self, head, inputs, logits):
        """Except in training, the landmark cannot be predicted."""
        if not self.training:
            logits[..., self.config.landmark_id] = float("-inf")

    def row_labels(self, labels):
        """labels of the text, [B, n], to those of the training row with its landmarks."""
        return insert(labels, self.config.landmark_id, self.config.mem_freq)[0]


AUTO_MAPS = {  # by method
    "landmark": {
        "AutoConfig": LandmarkConfig,
        "AutoModel": LandmarkModel,
        "AutoModelForCausalLM": LandmarkForCausalLM,
    }
}
