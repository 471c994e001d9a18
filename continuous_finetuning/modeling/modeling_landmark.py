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
from torch import nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.llama.modeling_llama import LlamaAttention, rotate_half

from .landmark_cache import LandmarkLayer, landmark_cache

PIECE = 256  # tokens computed together; limits the memory of the retrieved keys and changes no result


class LandmarkConfig(LlamaConfig):
    """landmark_id: the landmark's token id; None appends one to the vocabulary.  mem_freq: text tokens per block.
    cache_top_k: blocks retrieved.  train_context_length: text tokens of a training row.
    cache_on_cpu: keep the cache in CPU memory (same values, slower on a GPU)."""

    model_type = "llama_landmark"

    landmark_id: int | None = None
    mem_freq: int = 63
    cache_top_k: int = 5
    train_context_length: int = 512
    cache_on_cpu: bool = False

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
    """RoPE: x [..., *positions.shape, d] rotated to integer positions, in the dtype of x; rope: (cos, sin) [P, d]."""
    cos, sin = rope[0][positions], rope[1][positions]
    return (x * cos + rotate_half(x) * sin).to(x.dtype)


class LandmarkAttention(LlamaAttention):
    def forward(self, hidden_states, position_embeddings, past_key_values=None, start=0, local=0, **kwargs):
        """hidden_states: [B, n, D], the tokens start ... start + n - 1 of the row.  local: where their local section
        begins, a multiple of b.  position_embeddings: (cos, sin) by position, [P, d].
        past_key_values: None in training, when the row is complete."""
        B, n, _ = hidden_states.shape
        b, d, rope = self.config.block, self.head_dim, position_embeddings
        q = self.q_proj(hidden_states).view(B, n, -1, d).transpose(1, 2)
        k = self.k_proj(hidden_states).view(B, n, -1, d).transpose(1, 2)
        v = self.v_proj(hidden_states).view(B, n, -1, d).transpose(1, 2)
        row_n = torch.arange(start, start + n, device=q.device)
        query_n = row_n - local  # places in the local section
        q_BHRnd = q.reshape(B, k.shape[1], -1, n, d) * self.scaling
        k = rotate(k, row_n % b, rope)
        retrieved = None
        if past_key_values is None:
            keys_Gb = F.pad(k, (0, 0, 0, -n % b)).unflatten(2, (-1, b))
            values_Gb = F.pad(v, (0, 0, 0, -n % b)).unflatten(2, (-1, b))
        else:
            past = past_key_values.layers[self.layer_idx]
            past.append(k, v)
            blocks = slice(local // b, -(-past.length // b))
            keys_Gb = past.keys[:, :, blocks].to(q.device)
            values_Gb = past.values[:, :, blocks].to(q.device)
            if local:
                retrieved = self.retrieve(q_BHRnd, query_n, local // b, past, rope)
        out_BHRnd = self.attend(q_BHRnd, query_n, keys_Gb, values_Gb, retrieved, rope)
        return self.o_proj(out_BHRnd.flatten(1, 2).transpose(1, 2).reshape(B, n, -1)), None

    def attend(self, q_BHRnd, query_n, keys_Gb, values_Gb, retrieved, rope):
        """Attention to the local section, keys and values [B, H, G, b, d], and to the retrieved blocks if there are
        any (see `retrieve`); returns [B, H, R, n, d]."""
        b, G, device = self.config.block, keys_Gb.shape[2], q_BHRnd.device
        block_start_G1 = (torch.arange(G, device=device) * b)[:, None]
        keys_BHmd = rotate(keys_Gb, block_start_G1, rope).flatten(2, 3)
        scores_BHRnm = rotate(q_BHRnd, query_n, rope) @ keys_BHmd[:, :, None].mT
        scores_Gb = scores_BHRnm.unflatten(-1, (G, b))
        k = 0
        if retrieved is not None:
            q_BHRnkd, keys_BHRnkbd, values_BHRnkbd = retrieved
            k = keys_BHRnkbd.shape[4]
            scores_kb = (keys_BHRnkbd @ q_BHRnkd[..., None]).squeeze(-1)
            scores_Gb = torch.cat([scores_kb, scores_Gb], dim=-2)

        key_Gb = torch.arange(-k * b, G * b, device=device).view(-1, b)  # retrieved blocks come first
        own_block_n1 = (query_n - query_n % b)[:, None]
        own_nG = key_Gb[:, 0] == own_block_n1
        weights_Gb = grouped_softmax(scores_Gb, key_Gb <= query_n[:, None, None], own_nG).to(values_Gb.dtype)
        weights_Gb = F.dropout(weights_Gb, self.attention_dropout, self.training)
        out_BHRnd = weights_Gb[..., k:, :].flatten(-2) @ values_Gb.flatten(2, 3)[:, :, None]
        if retrieved is not None:
            weights_1m = weights_Gb[..., :k, :].flatten(-2)[..., None, :]
            out_BHRnd = out_BHRnd + (weights_1m @ values_BHRnkbd.flatten(4, 5)).squeeze(-2)
        return out_BHRnd

    def retrieve(self, q_BHRnd, query_n, N: int, past: LandmarkLayer, rope):
        """The k best of the first N blocks for each query, by age: queries rotated for each of them [B, H, R, n, k, d],
        keys and values [B, H, R, n, k, b, d]. query_n: places of the queries in the local section."""
        b, k = self.config.block, min(self.config.cache_top_k, N)
        slots = torch.arange(k + 1, device=q_BHRnd.device)
        distance_ns = query_n[:, None] + (k + 1 - slots) * b
        q_BHRnsd = rotate(q_BHRnd[..., None, :], distance_ns, rope)
        older_BHNd = past.landmarks[:, :, : N - k]
        latest_BHkd = past.landmarks[:, :, N - k : N]
        older = q_BHRnsd[..., 0, :] @ older_BHNd[:, :, None].mT
        if self.layer_idx == 0:  # there a landmark's key is its embedding's: all scores are equal but for rounding
            older = older[..., :1].expand_as(older)
        latest = (q_BHRnsd[..., 1:, :] * latest_BHkd[:, :, None, None]).sum(-1)
        newest_first = torch.cat([older, latest], dim=-1).flip(-1)
        ranked = newest_first.sort(dim=-1, descending=True, stable=True).indices
        chosen_BHRnk = (N - 1 - ranked[..., :k]).sort(dim=-1).values
        slot_BHRnk = slots[:k] + (chosen_BHRnk >= N - k)
        q_BHRnkd = q_BHRnsd.take_along_dim(slot_BHRnk[..., None], dim=-2)
        return q_BHRnkd, *past.blocks(chosen_BHRnk)


class LandmarkModel(LlamaModel):
    config_class = LandmarkConfig

    def __init__(self, config):
        super().__init__(config)
        if config.chunk_length < config.block:
            raise ValueError(
                f"cache_top_k {config.cache_top_k} and mem_freq {config.mem_freq} leave no room for a local section in "
                f"the training length of {config.train_context_length} tokens; lower one of them"
            )
        for i, layer in enumerate(self.layers):
            layer.self_attn = LandmarkAttention(config, i)
            layer.self_attn.scaling *= self.rotary_emb.attention_scaling**2  # some ropes scale cos and sin
        self.post_init()

    def forward(
        self, input_ids=None, attention_mask=None, past_key_values=None, inputs_embeds=None, use_cache=None, **kwargs
    ):
        """input_ids: [B, n], text, all rows of one length.

        In eval mode, last_hidden_state [B, n, D] is that of the text tokens and past_key_values continues from
        call to call. In training mode it is that of the row, [B, n + (n - 1) // mem_freq, D]: text and landmarks.
        Positions follow from the row: position_ids are ignored. Raises ValueError on padding, on inputs_embeds, and on
        a training row longer than the training length.
        """
        if input_ids is None or inputs_embeds is not None:
            raise ValueError("landmark attention needs input_ids: it inserts its landmarks among them")
        if attention_mask is not None and not (attention_mask.ndim == 2 and bool(attention_mask.all())):
            raise ValueError("landmark attention takes rows of equal length without padding; give them one by one")
        b, f = self.config.block, self.config.mem_freq
        if self.training:
            if input_ids.shape[1] > self.config.train_context_length:
                raise ValueError(
                    f"a training row of {input_ids.shape[1]} tokens; landmark attention trains on rows of "
                    f"{self.config.train_context_length}, cut longer ones"
                )
            row, _ = insert(input_ids, self.config.landmark_id, f)
            return BaseModelOutputWithPast(last_hidden_state=self.norm(self.run(row, self.rope(row.shape[1]))))

        cache = landmark_cache(past_key_values, self.config)
        seen, n = cache.get_seq_length(), input_ids.shape[1]
        row, last_n = insert(input_ids, self.config.landmark_id, f, seen, after_last=True)
        start = seen + seen // f
        end = start + row.shape[1]
        span = b if n == 1 and seen else self.config.chunk_length
        rope = self.rope((self.config.cache_top_k + 1) * b + self.config.chunk_length)
        for layer in cache.layers:
            layer.expected = end
        pieces, at = [], start
        while at < end:
            local = at // span * span
            stop = min(end, local + span, at + PIECE)
            pieces.append(self.run(row[:, at - start : stop - start], rope, cache, at, local))
            at = stop
        hidden = self.norm(torch.cat(pieces, dim=1)[:, last_n])
        use_cache = self.config.use_cache if use_cache is None else use_cache
        return BaseModelOutputWithPast(last_hidden_state=hidden, past_key_values=cache if use_cache else None)

    def run(self, row, rope, cache=None, start=0, local=0):
        """Hidden states [B, n, D] before the last norm of the row's tokens from `start` on, int64 [B, n]."""
        hidden = self.embed_tokens(row)
        for layer in self.layers:
            hidden = layer(hidden, position_embeddings=rope, past_key_values=cache, start=start, local=local)
        return hidden

    def rope(self, length: int):
        """(cos, sin), float32 [length, d] each, of the base model's RoPE."""
        inv_freq = self.rotary_emb.inv_freq.float()
        angles = torch.arange(length, device=inv_freq.device)[:, None] * inv_freq
        angles = torch.cat([angles, angles], dim=-1)
        return angles.cos(), angles.sin()


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


class LandmarkHead(nn.Linear):
    """The LM head. Except in training, the landmark cannot be predicted."""

    def __init__(self, config):
        super().__init__(config.hidden_size, config.vocab_size, bias=False)
        self.landmark_id = config.landmark_id

    def forward(self, hidden):
        logits = super().forward(hidden)
        if not self.training:
            logits[..., self.landmark_id] = float("-inf")
        return logits


class LandmarkForCausalLM(LlamaForCausalLM):
    config_class = LandmarkConfig
    accepts_loss_kwargs = False  # Trainer counts the text's tokens; the loss is a mean over the row's

    def __init__(self, config):
        super(LlamaForCausalLM, self).__init__(config)
        self.model = LandmarkModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = LandmarkHead(config)
        self.post_init()

    def row_labels(self, labels):
        """labels of the text, [B, n], to those of the training row with its landmarks."""
        return insert(labels, self.config.landmark_id, self.config.mem_freq)[0]

    def forward(self, input_ids=None, attention_mask=None, past_key_values=None, labels=None, **kwargs):
        """As of any causal LM. In training mode, labels are needed and logits are the row's, landmarks included."""
        if self.training:
            if labels is None:
                raise ValueError("landmark attention needs labels in training mode; call eval() to use the model")
            labels = self.row_labels(labels)
        return super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            labels=labels,
            **kwargs,
        )


AUTO_MAP = {"AutoConfig": LandmarkConfig, "AutoModel": LandmarkModel, "AutoModelForCausalLM": LandmarkForCausalLM}
