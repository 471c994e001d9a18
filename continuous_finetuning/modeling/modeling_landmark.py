"""Landmark attention for Llama (arXiv 2305.16300): random access to the past through one landmark token a block.

The text is cut into blocks of mem_freq tokens, each closed by a landmark token that nobody but this file sees: it is
inserted on the way in and never predicted on the way out. A row of the model, text and landmarks, thus has blocks of
b = mem_freq + 1 tokens. A query attends, by the paper's grouped softmax,
  - to the tokens of its own block together with the landmarks of the earlier blocks, and
  - to the tokens of an earlier block with weight (softmax inside that block) x (weight of its landmark).

Training: `model_max_length` tokens of text are one row, every earlier block is visible, RoPE is the base's own, and
the loss is over every next token, landmarks too. A last block that is exactly full gets no landmark.

Inference: text in, text out. A query sees its local section, which begins at some block boundary, and of all blocks
before that boundary the `cache_top_k` whose landmarks it scores highest, chosen anew for each layer, head and token.
The local section begins
  - in a call with several tokens: at the last multiple of `chunk_length`, counted from the start of the row. So a
    prompt gives the same values in one piece or in pieces, wherever they are cut;
  - in a call with a single token and a cache (decoding): at the token's own block, so that all full blocks are
    retrievable. This is another set of keys than the prompt's: a token that is fed alone is a decoded token.
The text token that fills a block is fed with its landmark, and the landmark's hidden state stands for both: it
predicts the next text token.

Positions (the paper's "stingy" mapping): RoPE only ever sees the distances of training. With k = min(cache_top_k,
number of earlier blocks), k + 1 slots of b positions lie directly before the local section. For scoring, the k latest
blocks sit in slots 1 ... k and all older ones in slot 0; the chosen blocks are then laid out by age in slots 0, 1, ...,
one slot later if they are among the k latest. Equal scores go to the later block; in layer 0 all older landmarks are
equal.

Suffixes: B batch, H key-value heads, R query heads of one of them, n queries, G blocks of b keys, d head_dim.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, LlamaModel
from transformers.cache_utils import CacheLayerMixin
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.llama.modeling_llama import LlamaAttention, rotate_half

PIECE = 256  # tokens that go through the layers at once; bounds the memory of the retrieved keys, not the result


class LandmarkConfig(LlamaConfig):
    """landmark_id: the landmark's row in the embeddings; None adds one behind the vocabulary.

    mem_freq: text tokens a block.  cache_top_k: blocks retrieved.  train_context_length: text tokens of a training
    row.  cache_on_cpu: keep keys and values of the past in CPU memory (same values, slower on a GPU).
    """

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
        """Longest local section: what a training row holds besides k + 1 slots, in whole blocks, in tokens."""
        return self.train_context_length // self.block * self.block - (self.cache_top_k + 1) * self.block


def grouped_softmax(scores_Gb, visible_Gb, own_G):
    """Attention weights of queries over G blocks of b keys whose last key is the landmark.

    scores_Gb: [..., G, b].  visible_Gb, own_G: bool, may the query see the key, is it in that block; broadcastable.
    Returns [..., G, b], at least float32; 0 for landmarks and for what is not visible; the sum over (G, b) is 1.

    The paper's groups, written as two levels: softmax inside every block, times a softmax over blocks. An earlier
    block enters the latter with its landmark's score, the own block with all of its tokens, i.e. their log-sum-exp.
    """
    scores_Gb = scores_Gb.to(torch.promote_types(scores_Gb.dtype, torch.float32))
    scores_Gb = scores_Gb.masked_fill(~visible_Gb, torch.finfo(scores_Gb.dtype).min)  # -inf would give nan - nan
    tokens_Gf, landmark_G = scores_Gb[..., :-1], scores_Gb[..., -1]
    block_G = torch.where(own_G, tokens_Gf.logsumexp(-1), landmark_G)
    return F.pad(block_G.softmax(-1)[..., None] * tokens_Gf.softmax(-1), (0, 1))


def rotate(x, positions, rope):
    """RoPE: x [..., *positions.shape, d] turned to integer positions, in the dtype of x; rope: (cos, sin) [P, d]."""
    cos, sin = rope[0][positions], rope[1][positions]
    return (x * cos + rotate_half(x) * sin).to(x.dtype)


class LandmarkLayer(CacheLayerMixin):
    """One layer's past: keys and values [B, H, capacity in blocks, b, d], unfilled places 0.

    A key has been turned by its place inside its block only. Where the block stands is turned into the queries, so a
    block can be put into any slot. `landmarks` [B, H, capacity, d] repeats their keys on the model's device.
    """

    def __init__(self, block: int, on_cpu: bool):
        super().__init__()
        self.block, self.on_cpu, self.length, self.expected = block, on_cpu, 0, 0

    def append(self, k_BHnd, v_BHnd):
        """Adds n tokens of the row (text and landmarks); memory grows in steps, or at once to `expected` tokens."""
        start, end = self.length, self.length + k_BHnd.shape[2]
        first, last = start // self.block, -(-end // self.block)
        capacity = self.keys.shape[2] if self.is_initialized else 0
        if last > capacity:
            self._grow(max(last + capacity // 8, -(-self.expected // self.block)), k_BHnd)
        self.keys.flatten(2, 3)[:, :, start:end] = k_BHnd.to(self.keys.device)
        self.values.flatten(2, 3)[:, :, start:end] = v_BHnd.to(self.keys.device)
        self.landmarks[:, :, first:last] = self.keys[:, :, first:last, -1].to(k_BHnd.device)
        self.length = end

    def blocks(self, chosen_BHq):
        """Keys and values of some blocks, int64 [B, H, ...], on their device: two times [B, H, ..., b, d]."""
        B, H, capacity = self.keys.shape[:3]
        head_BH = torch.arange(B * H, device=chosen_BHq.device).view(B, H, *[1] * (chosen_BHq.ndim - 2))
        at = (head_BH * capacity + chosen_BHq).to(self.keys.device)
        for x in (self.keys, self.values):
            yield x.flatten(0, 2).index_select(0, at.flatten()).unflatten(0, at.shape).to(chosen_BHq.device)

    def _grow(self, capacity: int, like):
        B, H, _, d = like.shape
        device = "cpu" if self.on_cpu else like.device
        places = [("keys", [self.block], device), ("values", [self.block], device), ("landmarks", [], like.device)]
        for name, b, where in places:
            with torch.inference_mode(False):  # a cache begun in inference mode may be continued outside it
                grown = torch.zeros(B, H, capacity, *b, d, dtype=like.dtype, device=where)
            if self.is_initialized:
                old = getattr(self, name)
                grown[:, :, : old.shape[2]] = old
            setattr(self, name, grown)
        self.is_initialized = True

    def get_seq_length(self) -> int:
        """Tokens of text: what the caller, generate() for one, counts."""
        return self.length - self.length // self.block

    def get_max_length(self) -> int:
        return -1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def reorder_cache(self, beam_idx):
        if self.is_initialized:
            for name in ("keys", "values", "landmarks"):
                setattr(self, name, getattr(self, name).index_select(0, beam_idx.to(getattr(self, name).device)))

    batch_select_indices = reorder_cache

    def reset(self):
        self.__init__(self.block, self.on_cpu)

    def lazy_initialization(self, key_states, value_states):
        """Nothing to do before the first `append`."""

    def update(self, key_states, value_states, *args, **kwargs):
        raise NotImplementedError("a landmark cache is filled by LandmarkAttention")


def landmark_cache(cache, config):
    """`cache`, its empty layers made landmark layers (generate() brings a DynamicCache), or a new one for None."""
    cache = DynamicCache() if cache is None else cache
    if not (cache.layers and isinstance(cache.layers[0], LandmarkLayer)):
        if cache.get_seq_length():
            raise ValueError("this cache was filled by another model; start landmark attention with an empty one")
        on_cpu = config.cache_on_cpu or getattr(cache, "offloading", False)
        cache.layers = [LandmarkLayer(config.block, on_cpu) for _ in range(config.num_hidden_layers)]
    return cache


class LandmarkAttention(LlamaAttention):
    def forward(self, hidden_states, position_embeddings, past_key_values=None, start=0, local=0, **kwargs):
        """hidden_states: [B, n, D], the tokens start ... start + n - 1 of the row.  local: where their local section
        begins, a multiple of b.  position_embeddings: (cos, sin) by position, [P, d].
        past_key_values: None while training, when the row is all there is."""
        B, n, _ = hidden_states.shape
        b, rope, d = self.config.block, position_embeddings, self.head_dim
        q, k, v = (
            proj(hidden_states).view(B, n, -1, d).transpose(1, 2) for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        row_n = torch.arange(start, start + n, device=q.device)
        q_BHRnd = q.reshape(B, k.shape[1], -1, n, d) * self.scaling
        k = rotate(k, row_n % b, rope)
        if past_key_values is None:
            local_k, local_v = (F.pad(x, (0, 0, 0, -n % b)).unflatten(2, (-1, b)) for x in (k, v))
            retrieved = None
        else:
            past = past_key_values.layers[self.layer_idx]
            past.append(k, v)
            blocks = slice(local // b, -(-past.length // b))
            local_k, local_v = past.keys[:, :, blocks].to(q.device), past.values[:, :, blocks].to(q.device)
            retrieved = self.retrieve(q_BHRnd, row_n - local, local // b, past, rope) if local else None

        M = local_k.shape[2]
        local_k = rotate(local_k, (torch.arange(M, device=q.device) * b)[:, None], rope).flatten(2, 3)
        scores_Gb = rotate(q_BHRnd, row_n - local, rope) @ local_k[:, :, None].transpose(-1, -2)  # [B, H, R, n, M b]
        scores_Gb = scores_Gb.unflatten(-1, (M, b))
        k_chosen = 0
        if retrieved is not None:
            q_BHRnkd, keys_BHRnkbd, values_BHRnkbd = retrieved
            k_chosen = keys_BHRnkbd.shape[4]
            scores_kb = (keys_BHRnkbd @ q_BHRnkd[..., None]).squeeze(-1)
            scores_Gb = torch.cat([scores_kb, scores_Gb], dim=-2)

        key_Gb = torch.arange(-k_chosen * b, M * b, device=q.device).view(-1, b)  # the chosen lie before the local 0
        query_n = row_n - local
        own_nG = key_Gb[:, 0] == (query_n - query_n % b)[:, None]
        weights_Gb = grouped_softmax(scores_Gb, key_Gb <= query_n[:, None, None], own_nG).to(v.dtype)
        weights_Gb = F.dropout(weights_Gb, self.attention_dropout, self.training)
        out_BHRnd = weights_Gb[..., k_chosen:, :].flatten(-2) @ local_v.flatten(2, 3)[:, :, None]
        if retrieved is not None:
            weights_1 = weights_Gb[..., :k_chosen, :].flatten(-2)[..., None, :]
            out_BHRnd = out_BHRnd + (weights_1 @ values_BHRnkbd.flatten(4, 5)).squeeze(-2)
        return self.o_proj(out_BHRnd.flatten(1, 2).transpose(1, 2).reshape(B, n, -1)), None

    def retrieve(self, q_BHRnd, query_n, N: int, past: LandmarkLayer, rope):
        """The k best of the first N blocks for each query: (queries turned for each of them [B, H, R, n, k, d], keys
        [B, H, R, n, k, b, d], values likewise), by age. query_n: places of the queries in the local section."""
        b, k = self.config.block, min(self.config.cache_top_k, N)
        device = q_BHRnd.device
        slots = torch.arange(k + 1, device=device)
        q_BHRnsd = rotate(q_BHRnd[..., None, :], query_n[:, None] + (k + 1 - slots) * b, rope)
        older_BHNd, latest_BHkd = past.landmarks[:, :, : N - k], past.landmarks[:, :, N - k : N]
        older = q_BHRnsd[..., 0, :] @ older_BHNd[:, :, None].transpose(-1, -2)
        if self.layer_idx == 0:  # there a landmark's key is its embedding's: all scores are equal but for rounding
            older = older[..., :1].expand_as(older)
        latest = (q_BHRnsd[..., 1:, :] * latest_BHkd[:, :, None, None]).sum(-1)
        ranked = torch.cat([older, latest], dim=-1).flip(-1).sort(dim=-1, descending=True, stable=True).indices
        chosen = (N - 1 - ranked[..., :k]).sort(dim=-1).values  # [B, H, R, n, k]
        slot = torch.arange(k, device=device) + (chosen >= N - k)
        q_BHRnkd = q_BHRnsd.take_along_dim(slot[..., None], dim=-2)
        return q_BHRnkd, *past.blocks(chosen)


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

        In eval mode, last_hidden_state [B, n, D] is that of the text tokens and past_key_values goes on from call to
        call. In training mode it is that of the row, [B, n + (n - 1) // mem_freq, D]: text and landmarks.
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
        """(cos, sin), float32 [length, d] each, of the base's own rope."""
        inv_freq = self.rotary_emb.inv_freq.float()
        angles = torch.arange(length, device=inv_freq.device)[:, None] * inv_freq
        angles = torch.cat([angles, angles], dim=-1)
        return angles.cos(), angles.sin()


def insert(text_Bn, value: int, mem_freq: int, seen: int = 0, after_last: bool = False):
    """Puts `value` after every mem_freq tokens of a text of which `seen` tokens have gone before.

    Returns the row, [B, n + landmarks], and int64 [n]: for each text token the place in it of that token, or of the
    landmark behind it. after_last: also close a block that the last token fills.
    """
    t = torch.arange(seen, seen + text_Bn.shape[1], device=text_Bn.device)
    place = t + t // mem_freq - (seen + seen // mem_freq)
    end = seen + text_Bn.shape[1]
    landmarks = (end if after_last else end - 1) // mem_freq - seen // mem_freq
    row = text_Bn.new_full((text_Bn.shape[0], text_Bn.shape[1] + landmarks), value)
    row[:, place] = text_Bn
    return row, place + ((t + 1) % mem_freq == 0)


class LandmarkHead(nn.Linear):
    """The LM head; for use, but not while training, the landmark cannot be predicted."""

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
