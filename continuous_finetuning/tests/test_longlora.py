"""LongLoRA: shifted sparse attention against a dense mask per head, gradients, causality; LoRA saved and merged."""

import json
import types

import pytest
import torch
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


@pytest.mark.parametrize("n, H", [(8, 3), (52, 2), (64, 3)])
def test_values_and_gradients_equal_a_dense_mask(n, H):
    torch.manual_seed(n)
    qkv = [torch.randn(2, H, n, 8, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    other = [x.detach().clone().requires_grad_() for x in qkv]
    weight = torch.randn(2, H, n, 8, dtype=torch.float64)
    fast, slow = longlora.shifted_sparse_attention(*qkv, 0.3), dense(*other, 0.3)
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-12)
    (fast * weight).sum().backward()
    (slow * weight).sum().backward()
    for a, b in zip(qkv, other, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-11)


def test_attention_function():
    """Each of 2 key-value heads serves 2 of 4 query heads."""
    torch.manual_seed(0)
    q, (k, v) = torch.randn(1, 4, 16, 8), torch.randn(2, 1, 2, 16, 8)
    module = types.SimpleNamespace(training=True, num_key_value_groups=2)
    out, _ = longlora.attention(module, q, k, v, None, scaling=0.3)
    all_k, all_v = (x.repeat_interleave(2, dim=1).double() for x in (k, v))
    torch.testing.assert_close(out.transpose(1, 2).double(), dense(q.double(), all_k, all_v, 0.3), rtol=1e-5, atol=1e-6)


def build(base, **flags):
    config = checkpoint_writer.open_base(str(base))
    method = methods.build("longlora", config, L, flags)
    return method, method.load(str(base), checkpoint_writer.extended_config(config, method, {}), dtype=torch.float32)


@pytest.fixture(scope="module")
def trained(base, rows, tmp_path_factory):
    """The checkpoint of three steps with --low_rank_training True."""
    output = tmp_path_factory.mktemp("lora") / "out"
    flags = "--low_rank_training True --max_steps 3 --learning_rate 1e-2 --save_strategy steps --save_steps 2"
    run_here("fine-tune.py", *training_flags(base, rows, "longlora", output), *flags.split())
    return output


def test_merged_checkpoint_is_adapter_plus_base(trained, base):
    from peft import PeftModel

    adapter = json.loads((trained / "adapter" / "adapter_config.json").read_text())
    assert adapter["target_modules"] == ["k_proj", "o_proj", "q_proj", "v_proj"]  # not in the order of a set
    merged = AutoModelForCausalLM.from_pretrained(trained)
    plain = LlamaForCausalLM.from_pretrained(base, config=merged.config)
    adapted = PeftModel.from_pretrained(plain, trained / "adapter")
    ids = torch.arange(2, 150)[None]
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, adapted(ids).logits, rtol=1e-4, atol=1e-4)


def test_tied_embeddings_stay_tied(tmp_path):
    """With LoRA on a tied base, the trained embeddings reach the merged model, and its LM head too."""
    base = save_base(tmp_path / "tied", tie_word_embeddings=True)
    method, model = build(base)
    model = method.prepare(model, low_rank=True)
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
