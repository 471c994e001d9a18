"""Next-token loss and accuracy of every position, without ever holding the logits of a whole window."""

from run import default_device

import torch
import torch.nn.functional as F

from attention import choose_attention
from checkpoint import choose_dtype, fingerprint, load_model, open_config, transform_logits
from rope import RopeSetter

# float32 logits of one chunk; above 32 MiB glibc returns memory after every use, and each chunk pages it in again
CHUNK_BYTES = {"cpu": 24 << 20, "cuda": 512 << 20}


@torch.inference_mode()
def score(model, tokens_BL1: torch.Tensor) -> tuple:
    """Losses and hits of the model on windows of L tokens and the token that follows each.

    tokens_BL1: int64 [batch, L + 1]; the model reads the first L.
    Returns arrays: nll_BL, float64, -log p(token i + 1 | window up to i), and hit_BL, bool, whether the argmax was that
    token. The LM head, cross-entropy and argmax run over chunks of positions; equal to full float32 logits up to
    rounding. Raises ValueError if a loss is not finite.
    """
    tokens_BL1 = tokens_BL1.to(model.device)
    target_BL = tokens_BL1[:, 1:]
    hidden_BLD = model.base_model(input_ids=tokens_BL1[:, :-1], use_cache=False).last_hidden_state
    vocab_size = model.get_output_embeddings().weight.shape[0]
    n_rows = max(1, CHUNK_BYTES[model.device.type] // (4 * vocab_size))
    hidden_chunks = hidden_BLD.flatten(0, 1).split(n_rows)
    target_chunks = target_BL.flatten().split(n_rows)
    losses, hits = [], []
    for hidden_nD, target_n in zip(hidden_chunks, target_chunks, strict=True):
        logits_nV = head_logits(model, hidden_nD)
        losses.append(F.cross_entropy(logits_nV, target_n, reduction="none"))
        hits.append(is_argmax(logits_nV, target_n))
    nll_BL = torch.cat(losses).view_as(target_BL)
    hit_BL = torch.cat(hits).view_as(target_BL)
    if not nll_BL.isfinite().all():
        raise ValueError(f"the losses of {model.name_or_path} are not finite: its weights are broken, or overflow")
    return nll_BL.cpu().double().numpy(), hit_BL.cpu().numpy()


def head_logits(model, hidden: torch.Tensor) -> torch.Tensor:
    logits = model.get_output_embeddings()(hidden)
    return transform_logits(model.config, logits).float()


def is_argmax(logits_nV: torch.Tensor, target_n: torch.Tensor) -> torch.Tensor:
    """Whether the argmax is the target, bool [n]. Far cheaper than argmax, which decides ties only."""
    target_logits_n1 = logits_nV.gather(1, target_n[:, None])
    hit_n = target_logits_n1[:, 0] == logits_nV.amax(-1)
    rows = hit_n.nonzero()[:, 0]
    hit_n[rows] = logits_nV[rows].argmax(-1) == target_n[rows]
    return hit_n


def open_checkpoint(name_or_path: str, trust: bool | str, dtype: str = "auto", attention: str = "auto") -> tuple:
    """(its config, what a result must have in common with earlier records to keep them)."""
    config = open_config(name_or_path, trust)
    device = default_device()
    dtype = choose_dtype(device, dtype)
    attention = choose_attention(attention, device, dtype, config)
    return config, {"checkpoint": fingerprint(name_or_path, config), "dtype": dtype, "attention": attention}


def load_scored_model(name_or_path: str, config, settings: dict) -> tuple:
    """(the model, its RopeSetter). Raises ValueError if `score` cannot compute its logits."""
    model = load_model(name_or_path, config, settings["dtype"], settings["attention"], default_device())
    check_head(model)
    return model, RopeSetter(model)


@torch.inference_mode()
def check_head(model) -> None:
    """Raises ValueError if the model's own logits of a short input are not those of `score`.

    Some architectures change their logits after the LM head.
    """
    ids_1L = torch.arange(16, device=model.device)[None]
    logits_1LV = model(input_ids=ids_1L, use_cache=False).logits.float()
    hidden_1LD = model.base_model(input_ids=ids_1L, use_cache=False).last_hidden_state
    ours_1LV = head_logits(model, hidden_1LD)
    scale = logits_1LV.nan_to_num(0, 0, 0).abs().max().item()  # a token that is never predicted has -inf
    # nan == nan here: a model whose weights are broken is reported by `score`
    if not torch.allclose(logits_1LV, ours_1LV, rtol=0, atol=1e-3 * scale, equal_nan=True):
        raise ValueError(f"{type(model).__name__} changes its logits after the LM head, not as this script does")
