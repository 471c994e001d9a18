"""Long rows in little memory: a loss without full-length logits, the MLP in tiles, checkpointed tensors on the CPU, and
rows cut across ranks.

B rows in a batch, n tokens of a row on this rank, N = B n, D hidden size, V vocabulary.
"""

import contextlib
from collections.abc import Callable

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.llama.modeling_llama import LlamaMLP

LOGITS = 2**24  # logits that exist at a time (524 tokens of a vocabulary of 32,000), 64 MiB in float32


class TiledCrossEntropy(torch.autograd.Function):
    """Sum of the cross-entropy of hidden_ND @ weight_VD.T against labels_N, tile by tile.

    The gradients are computed along with the loss, so no tile is computed twice and the logits of one tile are all
    that ever exist (as in Liger Kernel, arXiv 2410.10989, and ALST, arXiv 2506.13996). Labels of -100
    do not count. Returns a float32 scalar; softmax and its gradient are in float32 whatever the inputs are.
    """

    @staticmethod
    def forward(ctx, hidden_ND, weight_VD, labels_N):
        device = hidden_ND.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_ND.dtype
        wants_hidden, wants_weight, _ = ctx.needs_input_grad
        loss = hidden_ND.new_zeros((), dtype=torch.float32)
        hidden_grad_ND = torch.empty_like(hidden_ND) if wants_hidden else None
        weight_grad_VD = torch.zeros_like(weight_VD, dtype=torch.float32) if wants_weight else None
        with torch.autocast(device, enabled=False):
            cast_VD = weight_VD.to(dtype)
            tokens = max(1, LOGITS // len(cast_VD))
            for start in range(0, len(hidden_ND), tokens):
                tile = slice(start, start + tokens)
                x_TD, labels_T = hidden_ND[tile].to(dtype), labels_N[tile]
                counts_T = labels_T != -100
                logits_TV = (x_TD @ cast_VD.T).float()
                top_T = logits_TV.max(dim=-1, keepdim=True).values
                target_T1 = labels_T.clamp(min=0)[:, None]
                correct_T = logits_TV.gather(-1, target_T1)[:, 0]
                exp_TV = logits_TV.sub_(top_T).exp_()
                sum_T1 = exp_TV.sum(dim=-1, keepdim=True)
                loss_T = sum_T1.log()[:, 0] + top_T[:, 0] - correct_T
                loss += torch.where(counts_T, loss_T, 0.0).sum()
                if not (wants_hidden or wants_weight):
                    continue
                grad_TV = exp_TV.mul_(counts_T[:, None] / sum_T1)
                grad_TV.scatter_add_(-1, target_T1, -counts_T[:, None].float())
                grad_TV = grad_TV.to(dtype)
                if wants_hidden:
                    hidden_grad_ND[tile] = grad_TV @ cast_VD
                if wants_weight and dtype == torch.float32:
                    weight_grad_VD.addmm_(grad_TV.T, x_TD)
                elif wants_weight:
                    weight_grad_VD += grad_TV.T @ x_TD
        ctx.save_for_backward(hidden_grad_ND)
        ctx.weight_grad = weight_grad_VD.to(weight_VD.dtype) if wants_weight else None
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        (hidden_grad_ND,) = ctx.saved_tensors
        grads = [x if x is None else x.mul_(grad.to(x.dtype)) for x in (hidden_grad_ND, ctx.weight_grad)]
        return *grads, None


def liger_cross_entropy() -> Callable:
    """Liger's kernel for the same sum (hidden, weight, labels -> float32 scalar)."""
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    loss = LigerFusedLinearCrossEntropyLoss(reduction="sum", accum_dtype=torch.float32)
    return lambda hidden_ND, weight_VD, labels_N: loss(weight_VD, hidden_ND, labels_N)


class LossHead(nn.Linear):
    """An LM head that, given labels, answers with the loss instead of logits.

    It is computed inside the head's own forward, so that ZeRO-3 has its weight gathered there and in the backward.
    """

    fused: Callable | None = None

    def forward(self, hidden, labels=None, count=None):
        """hidden [B, n, D], labels int64 [B, n], already shifted: the loss's sum over `count`, a float32 scalar."""
        if labels is None:
            return super().forward(hidden)
        hidden_ND, labels_N = hidden.flatten(0, 1), labels.flatten()
        if self.fused:
            device = hidden.device.type
            dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
            total = self.fused(hidden_ND.to(dtype), self.weight.to(dtype), labels_N)
        else:
            total = TiledCrossEntropy.apply(hidden_ND, self.weight, labels_N)
        return total / (count if count is not None else (labels_N != -100).sum().clamp(min=1))


def use_tiled_loss(model, offload: bool = False, liger: bool = False) -> None:
    """In training, model(input_ids, labels).loss is what it was, and no logits are made.

    model: a LlamaForCausalLM, or one whose `row_labels` says which labels its rows have; LoRA may be around it.
    offload: what the backward needs (with gradient checkpointing the layers' inputs) waits in host memory, pinned where
    there is a GPU.  liger: the loss by Liger's kernel.
    """
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    fused = staticmethod(liger_cross_entropy()) if liger else None
    copies = getattr(model.lm_head, "modules_to_save", None)  # LoRA trains a copy of the head where it is tied
    for head in copies.values() if copies else [model.lm_head]:
        head.__class__ = type("LossHead", (LossHead, type(head)), {"fused": fused})
    plain = model.forward

    def forward(input_ids=None, labels=None, shift_labels=None, num_items_in_batch=None, **kwargs):
        if labels is None or not model.training:
            return plain(input_ids=input_ids, labels=labels, **kwargs)
        saved = torch.autograd.graph.save_on_cpu(pin_memory=True) if offload else contextlib.nullcontext()
        kwargs["use_cache"] = False
        with saved:
            hidden_BnD = model.model(input_ids=input_ids, **kwargs).last_hidden_state
            if shift_labels is None:  # otherwise a row cut across ranks: its labels are shifted already
                labels = model.row_labels(labels) if hasattr(model, "row_labels") else labels
                shift_labels = nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
            loss = model.lm_head(hidden_BnD, shift_labels, num_items_in_batch)
        return CausalLMOutputWithPast(loss=loss)

    model.forward = forward


def keep_attention():
    """A `context_fn` of gradient checkpointing: the backward computes layers again, but not their attention.

    Keeps what SDPA returns, [B, n, D] per layer (8 GiB for a 7B model at 32,768 tokens in bfloat16).
    """
    names = ("flash_attention", "flash_attention_for_cpu", "efficient_attention", "cudnn_attention")
    kept = [getattr(torch.ops.aten, f"_scaled_dot_product_{name}").default for name in names]

    def policy(context, operation, *args, **kwargs):
        return CheckpointPolicy.MUST_SAVE if operation in kept else CheckpointPolicy.PREFER_RECOMPUTE

    return create_selective_checkpoint_contexts(policy)


def use_tiled_mlp(model) -> None:
    """Computes every Llama MLP for D tokens at a time, again in the backward (ALST, arXiv 2506.13996).

    The same values; of the wide activations [B, n, 4D] only a tile's exist, for a third forward pass of the MLP.
    """

    def tiled(mlp):
        plain, tokens = mlp.forward, mlp.hidden_size

        def forward(x_BnD):
            pieces = [
                checkpoint(plain, x_BtD, use_reentrant=False) if torch.is_grad_enabled() else plain(x_BtD)
                for x_BtD in x_BnD.split(tokens, dim=1)
            ]
            return torch.cat(pieces, dim=1)

        return forward

    for module in model.modules():
        if isinstance(module, LlamaMLP):
            module.forward = tiled(module)


def sequence_parallel(size: int):
    """Accelerate's `ParallelismConfig` that cuts every row over `size` ranks (Ulysses, arXiv 2309.14509).

    Between the ranks, attention has whole rows and a part of the heads; all else has a part of the row.
    """
    from accelerate.parallelism_config import ParallelismConfig
    from accelerate.utils import DeepSpeedSequenceParallelConfig

    handler = DeepSpeedSequenceParallelConfig(sp_seq_length_is_variable=True, sp_attn_implementation="sdpa")
    return ParallelismConfig(sp_backend="deepspeed", sp_size=size, sp_handler=handler)
