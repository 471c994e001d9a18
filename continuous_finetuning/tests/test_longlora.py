"""LongLoRA: shifted sparse attention against a dense mask per head, gradients, causality; LoRA saved and merged."""

import json
import types

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from methods import longlora
from scripts import losses, run_here, training_flags
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


@pytest.mark.parametrize("is_tied", [False, True])
def test_merged_checkpoint_is_adapter_plus_base(tmp_path, is_tied):
    """And with tied embeddings, the trained ones reach the LM head, too."""
    base, output = save_base(tmp_path / "base", tie_word_embeddings=is_tied), tmp_path / "out"
    ids = torch.arange(L)[None] % 40 + 2
    (tmp_path / "rows.jsonl").write_text((json.dumps({"input_ids": ids[0].tolist()}) + "\n") * 12)
    flags = "--low_rank_training True --use_full_attn True --max_steps 3 --learning_rate 1e-2"
    run_here("fine-tune.py", *training_flags(base, tmp_path / "rows.jsonl", "longlora", output), *flags.split())
    adapter = json.loads((output / "adapter" / "adapter_config.json").read_text())
    assert adapter["target_modules"] == ["k_proj", "o_proj", "q_proj", "v_proj"]  # not in the order of a set
    merged = AutoModelForCausalLM.from_pretrained(output)
    plain = LlamaForCausalLM.from_pretrained(base, config=merged.config)
    assert losses(output)[0] == pytest.approx(plain(ids, labels=ids).loss.item(), rel=1e-5)
    embeddings, old_embeddings = merged.model.embed_tokens.weight, plain.model.embed_tokens.weight.clone()
    assert (merged.lm_head.weight is embeddings) == is_tied and not torch.equal(embeddings, old_embeddings)
    adapted = PeftModel.from_pretrained(plain, output / "adapter")
    torch.testing.assert_close(merged(ids).logits, adapted(ids).logits, rtol=1e-3, atol=1e-3)
