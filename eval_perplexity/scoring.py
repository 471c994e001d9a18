"""Next-token loss and accuracy of every position, without ever holding the logits of a whole window."""

import torch
import torch.nn.functional as F

# float32 logits of one chunk. CPU: large, so that threads seldom wait for each other, but below 32 MiB, above which
# glibc gives memory back after every use and each chunk would page it in anew. GPU: enough rows to fill it.
CHUNK_BYTES = {"cpu": 24 << 20, "cuda": 512 << 20}


@torch.inference_mode()
def score(model, tokens_BL1: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses and hits of the model on windows of L tokens and the token that follows each.

    tokens_BL1: int64 [batch, L + 1], on the model's device; the model reads the first L.
    Returns nll_BL, float32, -log p(token i + 1 | window up to i), and hit_BL, bool, whether the argmax was that token.

    The inner model gives hidden states; the LM head, cross-entropy and argmax run over chunks of positions. The values
    are those of the full float32 logits up to rounding.
    """
    targets_N = tokens_BL1[:, 1:].flatten()
    hidden_ND = model.base_model(input_ids=tokens_BL1[:, :-1], use_cache=False).last_hidden_state.flatten(0, 1)
    lm_head = model.get_output_embeddings()
    rows = max(1, CHUNK_BYTES[hidden_ND.device.type] // (4 * lm_head.weight.shape[0]))
    nll_N = torch.empty_like(targets_N, dtype=torch.float32)
    hit_N = torch.empty_like(targets_N, dtype=torch.bool)
    for start in range(0, len(targets_N), rows):
        chunk = slice(start, start + rows)
        nll_N[chunk], hit_N[chunk] = score_chunk(lm_head(hidden_ND[chunk]).float(), targets_N[chunk])
    return nll_N.view(len(tokens_BL1), -1), hit_N.view(len(tokens_BL1), -1)


def score_chunk(logits_nV: torch.Tensor, target_n: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy, float32 [n], and whether the argmax is the target, bool [n]. logits_nV: float32."""
    nll_n = F.cross_entropy(logits_nV, target_n, reduction="none")
    own_n = logits_nV.gather(1, target_n[:, None])[:, 0]
    hit_n = own_n == logits_nV.amax(-1)  # far cheaper than argmax; that one then decides ties
    hit_n[hit_n.clone()] = logits_nV[hit_n].argmax(-1) == target_n[hit_n]
    return nll_n, hit_n


@torch.inference_mode()
def check_head(model, tokens_1L: torch.Tensor) -> None:
    """Makes sure that `lm_head(inner model)` is all that the model does, on a short input, int64 [1, L].

    Raises ValueError if its own logits differ (some architectures scale or cap them after the LM head).
    """
    own_1LV = model(input_ids=tokens_1L, use_cache=False).logits.float()
    hidden_1LD = model.base_model(input_ids=tokens_1L, use_cache=False).last_hidden_state
    ours_1LV = model.get_output_embeddings()(hidden_1LD).float()
    finite = own_1LV[own_1LV.isfinite()]  # a token that is never predicted has -inf
    scale = float(finite.abs().max()) if len(finite) else 1.0
    # nan == nan here: a model whose weights are broken is reported by its losses, not by this check
    if not torch.allclose(own_1LV, ours_1LV, rtol=0, atol=1e-3 * scale, equal_nan=True):
        raise ValueError(f"{type(model).__name__} changes its logits after the LM head, which this script does not do")
