"""LongLoRA: shifted sparse attention against a dense mask per head, gradients, causality; LoRA saved and merged."""

import json
import types

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, LlamaForCausalLM

import checkpoint_writer
import memory
import methods
from methods import longlora
from scripts import run_here, training_flags
from tiny import L, save_base


def dense(q, k, v, scale):
    """The definition, per head and per query, with an explicit mask. [B, H, n, d] float64."""
    n, H = q.shape[2], q.shape[1]
    g = n // 4
    out = []
    for h in range(H):
        shift = g // 2 if h >= H // 2 else 0
        group = torch.tensor([(i - shift) // g for i in range(n)])  # -1 for the first half group
        mask = (group[:, None] == group[None, :]) & (torch.arange(n)[:, None] >= torch.arange(n)[None, :])
        scores = (q[:, h] @ k[:, h].mT * scale).masked_fill(~mask, float("-inf"))
        out.append(scores.softmax(-1) @ v[:, h])
    return torch.stack(out, 1)


@pytest.mark.parametrize("n, H, K", [(8, 3, 3), (52, 2, 1), (64, 4, 2)])
def test_values_and_gradients_equal_a_dense_mask(n, H, K):
    """Each of K key-value heads serves H / K query heads."""
    torch.manual_seed(n)
    q, k, v = (torch.randn(2, heads, n, 8, dtype=torch.float64, requires_grad=True) for heads in (H, K, K))
    weight = torch.randn(2, H, n, 8, dtype=torch.float64)
    module = types.SimpleNamespace(training=True, num_key_value_groups=H // K)
    fast, _ = longlora.attention(module, q, k, v, None, scaling=0.3)
    slow = dense(q, k.repeat_interleave(H // K, dim=1), v.repeat_interleave(H // K, dim=1), 0.3)
    torch.testing.assert_close(fast.transpose(1, 2), slow, rtol=1e-10, atol=1e-12)
    expected = torch.autograd.grad((slow * weight).sum(), (q, k, v))
    gradients = torch.autograd.grad((fast.transpose(1, 2) * weight).sum(), (q, k, v))
    torch.testing.assert_close(gradients, expected, rtol=1e-9, atol=1e-11)


def test_merged_checkpoint_is_adapter_plus_base(base, rows, tmp_path):
    flags = "--low_rank_training True --max_steps 3 --learning_rate 1e-2"
    run_here("fine-tune.py", *training_flags(base, rows, "longlora", tmp_path), *flags.split())
    adapter = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert adapter["target_modules"] == ["k_proj", "o_proj", "q_proj", "v_proj"]  # not in the order of a set
    merged = AutoModelForCausalLM.from_pretrained(tmp_path)
    plain = LlamaForCausalLM.from_pretrained(base, config=merged.config)
    adapted = PeftModel.from_pretrained(plain, tmp_path / "adapter")
    ids = torch.arange(2, 150)[None]
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, adapted(ids).logits, rtol=1e-3, atol=1e-3)


def test_tied_embeddings_stay_tied(tmp_path):
    """With LoRA on a tied base, the trained embeddings reach the merged model, and its LM head too."""
    base = save_base(tmp_path / "tied", tie_word_embeddings=True)
    config = checkpoint_writer.open_base(str(base))
    method = methods.build("longlora", config, L, {})
    config = checkpoint_writer.extended_config(config, method, {})
    model = method.prepare(method.load(str(base), config, dtype=torch.float32), low_rank=True)
    trained = [p for name, p in model.named_parameters() if p.requires_grad]
    optimizer, ids = torch.optim.SGD(trained, lr=0.5), torch.arange(2, 2 + 64)[None]
    plain = model.train()(ids, labels=ids).loss
    memory.use_tiled_loss(model)
    tiled = model(input_ids=ids, labels=ids)
    assert tiled.logits is None and tiled.loss.item() == pytest.approx(plain.item(), rel=1e-5)
    for _ in range(3):
        model.train()(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.set_attn_implementation("sdpa")
    with torch.no_grad():
        before = model.eval()(ids).logits
        method.finish(model, tmp_path / "out").save_pretrained(tmp_path / "out")
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
        torch.testing.assert_close(merged(ids).logits, before, rtol=1e-4, atol=1e-4)
    assert merged.lm_head.weight.data_ptr() == merged.model.embed_tokens.weight.data_ptr()
    first = LlamaForCausalLM.from_pretrained(base).model.embed_tokens.weight
    assert not torch.equal(merged.model.embed_tokens.weight, first)
