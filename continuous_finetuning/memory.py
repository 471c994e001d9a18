"""Long rows in little memory: the loss and the MLPs in tiles, attention outputs kept, masks that fit.

Shapes: B rows in a batch, n tokens of a row on this rank, N = B n, T tokens of a tile, D hidden size, V vocabulary.
"""

from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts
from transformers.modeling_outputs import CausalLMOutputWithPast

from checkpoint import transform_logits

TILE_LOGITS = 2**24  # logits of a tile: 524 tokens of a vocabulary of 32,000, 64 MiB in float32


def token_loss(logits_NV, labels_N):
    """The training loss, cross-entropy. To train with another loss, change this function only.

    logits_NV: float32 [N, V].  labels_N: int64 [N], -100 for tokens that do not count. Returns a float32 scalar: a sum
    over tokens, since it is called for one tile at a time.
    """
    counted_N1 = (labels_N != -100)[:, None]
    max_N1 = logits_NV.detach().amax(dim=-1, keepdim=True)
    exp_NV = (logits_NV - max_N1).exp()
    log_sum_N1 = exp_NV.sum(dim=-1, keepdim=True).log() + max_N1
    index_N1 = labels_N.clamp(min=0)[:, None]
    loss_N1 = log_sum_N1 - logits_NV.gather(-1, index_N1)
    return torch.where(counted_N1, loss_N1, 0.0).sum()


class TiledLoss(torch.autograd.Function):
    """token_loss(hidden_ND @ weight_VD.T, labels_N), with the logits of one tile in memory at a time.

    config: of the model, which may change its logits (`transform_logits`).

    The gradients of a tile are computed by autograd together with its loss, so no tile is computed twice, and the
    weight's gradient is summed in float32 (as in Liger Kernel, arXiv 2410.10989, and ALST, arXiv 2506.13996): with 64
    tiles in bfloat16 its relative error was 0.3 %, with torch.utils.checkpoint around each tile 1.0 %.
    """

    @staticmethod
    def forward(ctx, hidden_ND, weight_VD, labels_N, config=None):
        dtype = compute_dtype(hidden_ND)
        trains_weight = ctx.needs_input_grad[1]
        loss = hidden_ND.new_zeros((), dtype=torch.float32)
        hidden_grad_ND = torch.empty_like(hidden_ND)
        weight_grad_VD = torch.zeros_like(weight_VD, dtype=torch.float32) if trains_weight else None
        cast_weight_VD = weight_VD.detach().to(dtype).requires_grad_(trains_weight)
        tokens = TILE_LOGITS // len(weight_VD)
        for start in range(0, len(hidden_ND), tokens):
            tile = slice(start, start + tokens)
            hidden_TD = hidden_ND[tile].detach().to(dtype).requires_grad_()
            with torch.enable_grad(), torch.autocast(hidden_ND.device.type, enabled=False):
                logits_TV = transform_logits(config, (hidden_TD @ cast_weight_VD.T).float())
                tile_loss = token_loss(logits_TV, labels_N[tile])
            loss += tile_loss.detach()
            inputs = (hidden_TD, cast_weight_VD) if trains_weight else (hidden_TD,)
            hidden_grad_ND[tile], *weight_grad = torch.autograd.grad(tile_loss, inputs)
            if trains_weight:
                weight_grad_VD += weight_grad[0]
        ctx.save_for_backward(hidden_grad_ND)
        ctx.weight_grad = weight_grad_VD.to(weight_VD.dtype) if trains_weight else None
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        (hidden_grad_ND,) = ctx.saved_tensors
        hidden_grad_ND.mul_(grad.to(hidden_grad_ND.dtype))
        if ctx.weight_grad is not None:
            ctx.weight_grad.mul_(grad.to(ctx.weight_grad.dtype))
        return hidden_grad_ND, ctx.weight_grad, None, None


def liger_loss(hidden_ND, weight_VD, labels_N, config):
    """The summed cross-entropy by Liger's kernel (--use_liger_kernel True), a float32 scalar."""
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    dtype = compute_dtype(hidden_ND)
    kernel = LigerFusedLinearCrossEntropyLoss(reduction="sum", accum_dtype=torch.float32)
    return kernel(weight_VD.to(dtype), hidden_ND.to(dtype), labels_N)


def compute_dtype(x) -> torch.dtype:
    """The dtype of matrix products with x: autocast's where it is enabled."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def use_tiled_loss(model, liger: bool = False) -> None:
    """Makes `model(input_ids, labels).loss` in training mode a tiled loss of the same value, without logits.

    model: a causal language model, maybe with LoRA or a method `row_labels` (labels of its rows).  liger: by a kernel.
    """
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    summed_loss = liger_loss if liger else TiledLoss.apply
    for head in model.lm_head.modules():
        if isinstance(head, nn.Linear):  # also the copy that LoRA trains of a head that is tied
            head.forward = partial(head_forward, head, head.forward, summed_loss, model.config)
    plain_forward = model.forward

    def forward(input_ids=None, labels=None, shift_labels=None, num_items_in_batch=None, **kwargs):
        if labels is None or not model.training:
            return plain_forward(input_ids=input_ids, labels=labels, **kwargs)
        hidden_BnD = model.model(input_ids=input_ids, use_cache=False, **kwargs).last_hidden_state
        if shift_labels is None:  # ranks that share a row get labels that are already shifted
            if hasattr(model, "row_labels"):
                labels = model.row_labels(labels)
            shift_labels = nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
        loss = model.lm_head(hidden_BnD, shift_labels)
        if num_items_in_batch is None:
            num_items_in_batch = (shift_labels != -100).sum().clamp(min=1)
        return CausalLMOutputWithPast(loss=loss / num_items_in_batch)

    model.forward = forward


def head_forward(head: nn.Module, plain_forward, summed_loss, config, hidden_BnD, labels_Bn=None):
    """The LM head's logits or, with labels, the summed loss: in its own forward, where ZeRO-3 gathers its weight."""
    if labels_Bn is None:
        return plain_forward(hidden_BnD)
    return summed_loss(hidden_BnD.flatten(0, 1), head.weight, labels_Bn.flatten(), config)


def keep_attention():
    """A `context_fn` of gradient checkpointing that keeps the outputs of SDPA and recomputes everything else.

    They take B n D numbers per layer: 8 GiB for a 7B model at 32,768 tokens in bfloat16.
    """
    kernels = ("flash_attention", "flash_attention_for_cpu", "efficient_attention", "cudnn_attention")
    kept = [getattr(torch.ops.aten, f"_scaled_dot_product_{kernel}").default for kernel in kernels]
    return create_selective_checkpoint_contexts(kept)


def check_document_mask(rows: int, length: int) -> None:
    """Raises ValueError if SDPA's mask for --document_mask, [length, length] for each row, is too large for the GPU."""
    mask_bytes = 3 * rows * length**2  # as bool and as bfloat16
    if torch.cuda.is_available() and mask_bytes > torch.cuda.mem_get_info()[0] / 2:
        remedy = "FlashAttention needs none (pip install --pre -r requirements-gpu.txt)"
        raise ValueError(f"--document_mask: SDPA's mask needs {mask_bytes / 2**30:.0f} GiB; {remedy}")


def use_tiled_mlp(model) -> None:
    """Computes every MLP for D tokens at a time, and again in the backward pass (ALST, arXiv 2506.13996).

    Same values; the wide activations [B, n, 4 D] exist for one tile at a time, at the price of a third forward pass.
    """

    def forward(plain_forward, x_BnD):
        tiles = x_BnD.split(x_BnD.shape[-1], dim=1)
        outputs = [checkpoint(plain_forward, x_BTD, use_reentrant=False) for x_BTD in tiles]
        return torch.cat(outputs, dim=1)

    for module in model.modules():
        if isinstance(getattr(module, "down_proj", None), nn.Linear):
            module.forward = partial(forward, module.forward)
