"""Tiled loss and tiled MLP: the values of the plain computation, and no tensor of the logits' size."""

import copy

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

import memory
from scripts import allocated_bytes
from tiny import SHAPE

V, D = 300, 64


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def model(request):
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SHAPE, vocab_size=V, tie_word_embeddings=request.param)).double().train()


@pytest.fixture()
def batch():
    ids_BL = torch.randint(0, V, (2, 130), generator=torch.Generator().manual_seed(1))
    labels_BL = ids_BL.clone()
    labels_BL[0, :20] = -100
    return {"input_ids": ids_BL, "labels": labels_BL}


@pytest.mark.parametrize("tile, count, with_mlp", [(1, None, True), (7, 200, False), (7, 200, True), (260, None, True)])
def test_loss_and_gradients_equal_the_plain_ones(model, batch, monkeypatch, tile, count, with_mlp):
    monkeypatch.setattr(memory, "TILE_LOGITS", tile * V)
    plain, tiled = copy.deepcopy(model), copy.deepcopy(model)
    memory.use_tiled_loss(tiled)
    if with_mlp:
        tiled.gradient_checkpointing_enable()
        memory.use_tiled_mlp(tiled)
    losses = [m(**batch, num_items_in_batch=count).loss for m in (plain, tiled)]
    for loss in losses:
        (3 * loss).backward()
    torch.testing.assert_close(losses[1].double(), losses[0].double(), atol=1e-5, rtol=1e-6)
    for (name, a), b in zip(plain.named_parameters(), tiled.parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad, atol=1e-6, rtol=1e-4, msg=name)


def test_loss_against_float64():
    """The function alone, in float32 with logits up to 1,000: no overflow; ignored labels have no gradient."""
    torch.manual_seed(0)
    hidden, weight = (20 * torch.randn(50, D)).requires_grad_(), torch.randn(V, D, requires_grad=True)
    labels = torch.randint(0, V, (50,))
    labels[::7] = -100
    total = memory.TiledLoss.apply(hidden, weight, labels)
    total.backward()
    h, w = (x.detach().double().requires_grad_() for x in (hidden, weight))
    expected = cross_entropy(h @ w.T, labels, reduction="sum")
    expected.backward()
    assert total.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(hidden.grad.double(), h.grad, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(weight.grad.double(), w.grad, atol=1e-3, rtol=1e-4)
    assert (hidden.grad[::7] == 0).all()


def test_another_loss_is_one_function(model, batch, monkeypatch):
    """A changed `token_loss` changes loss and gradients together."""
    plain, tiled = copy.deepcopy(model), copy.deepcopy(model)
    monkeypatch.setattr(memory, "token_loss", lambda logits, labels: logits.square().sum())
    memory.use_tiled_loss(tiled)
    tiled.lm_head.weight.requires_grad_(False)
    loss = tiled(**batch, num_items_in_batch=10).loss
    expected = plain(batch["input_ids"]).logits.square().sum() / 10
    torch.testing.assert_close(loss.double(), expected, atol=0, rtol=1e-5)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(tiled.model.norm.weight.grad, plain.model.norm.weight.grad, atol=1e-3, rtol=1e-4)
    assert tiled.lm_head.weight.grad is None  # a frozen head


def test_no_tensor_has_the_size_of_the_logits_or_of_the_wide_mlp(batch, monkeypatch):
    monkeypatch.setattr(memory, "TILE_LOGITS", 10 * V)
    small = {"vocab_size": V, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(**small, intermediate_size=4096)).train()
    memory.use_tiled_loss(model)
    model.gradient_checkpointing_enable()
    assert allocated_bytes(model, **batch)[1] == 260 * 4096 * 4
    memory.use_tiled_mlp(model)
    assert allocated_bytes(model, **batch)[1] == 16 * 2 * 4096 * 4
    model = LlamaForCausalLM(LlamaConfig(**small, intermediate_size=32)).train()
    memory.use_tiled_loss(model)
    assert allocated_bytes(model, **batch)[1] < 130 * V * 4


def test_a_document_mask_that_does_not_fit(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (40 * 2**30, 80 * 2**30))
    memory.check_document_mask(1, 65536)  # 12 GiB
    with pytest.raises(ValueError, match="mask needs 24 GiB; FlashAttention needs none"):
        memory.check_document_mask(2, 65536)
