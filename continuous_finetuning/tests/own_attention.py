"""Checks shared by the tests of the frozen methods with their own attention: a dense reference written from the
definition, and what any such checkpoint must do. Not a test file itself."""

import json
import subprocess
import sys

import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM
from transformers.models.llama.modeling_llama import ROPE_INIT_FUNCTIONS

import checkpoint
import extend

# bases that differ in what attention depends on; window 64
BASES = {
    "grouped": {"num_attention_heads": 4, "num_key_value_heads": 2, "attention_bias": True},
    "tied": {"tie_word_embeddings": True, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
    "llama3": {
        "num_key_value_heads": 2,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 1000.0,
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    },
    "yarn": {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32}},
}


def make(monkeypatch, base, name, output, length, **flags):
    """Runs extend.py in this process; returns the checkpoint's folder."""
    command = ["extend.py", "--model_name_or_path", base, "--method_name", name, "--model_max_length", length]
    command += ["--output_dir", output] + [part for key, value in flags.items() for part in (f"--{key}", value)]
    monkeypatch.setattr(sys, "argv", list(map(str, command)))
    extend.main()
    return output


def load(folder, dtype=torch.float32):
    return AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype=dtype).eval()


def tokens(length, batch=1, seed=0):
    return torch.randint(2, 250, (batch, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def dense_logits(base, ids_L, distance_LL, seen_LL):
    """Logits, float64 [L, V], of the base model whose attention is, pair by pair and with nothing clever,

        score(i, k) = f^2 / sqrt(d) Re sum_j q_ij conj(k_kj) exp(sqrt(-1) distance(i, k) theta_j)

    over the keys with seen(i, k): a rope is a rotation of d/2 complex numbers (arXiv 2104.09864, eq. 12), and a score
    depends on the relative position alone. theta and f (1, or YaRN's attention factor) are those of the base.
    """
    model = LlamaForCausalLM.from_pretrained(base).double().eval()
    config = model.config
    kind = config.rope_parameters["rope_type"]
    theta, factor = config.rope_parameters["rope_theta"], 1.0
    d, H, G = config.head_dim, config.num_attention_heads, config.num_key_value_heads
    theta_J = theta ** (-torch.arange(0, d, 2).double() / d)
    if kind != "default":
        theta_J, factor = ROPE_INIT_FUNCTIONS[kind](config, "cpu")
    turn_LLJ = torch.exp(1j * distance_LL.double()[..., None] * theta_J.double())

    def heads(linear, x_LD):
        x_LHd = linear(x_LD).view(len(x_LD), -1, d)
        return torch.complex(x_LHd[..., : d // 2], x_LHd[..., d // 2 :])

    x_LD = model.model.embed_tokens(ids_L)
    for layer in model.model.layers:
        attention, h_LD = layer.self_attn, layer.input_layernorm(x_LD)
        q_LHJ, k_LGJ = heads(attention.q_proj, h_LD), heads(attention.k_proj, h_LD)
        v_LGd, out = attention.v_proj(h_LD).view(len(h_LD), G, d), []
        for h in range(H):
            g = h // (H // G)
            score_LL = torch.einsum("ij,kj,ikj->ik", q_LHJ[:, h], k_LGJ[:, g].conj(), turn_LLJ).real
            weight_LL = (score_LL * factor**2 / d**0.5).masked_fill(~seen_LL, -torch.inf).softmax(-1)
            out.append(weight_LL @ v_LGd[:, g])
        x_LD = x_LD + attention.o_proj(torch.cat(out, 1))
        x_LD = x_LD + layer.mlp(layer.post_attention_layernorm(x_LD))
    return model.lm_head(model.model.norm(x_LD))


def pairs(length):
    """Column of query indices and row of key indices, and which keys are not later than the query."""
    i, k = torch.arange(length)[:, None], torch.arange(length)[None]
    return i, k, k <= i


def close(ours, expected, atol=2e-3):
    """Logits agree; atol is far below any error of a position or a mask, which moves them by more than 0.1."""
    difference = (ours.double() - expected.double()).abs().max()
    assert difference < atol, difference


@torch.no_grad()
def check_causality(model, length, cut):
    """Other tokens from `cut` on change every later logit, and none before."""
    ids = tokens(length)
    other = torch.cat([ids[:, :cut], (ids[:, cut:] + 7) % 250 + 2], 1)
    before, after = model(ids).logits[0], model(other).logits[0]
    close(after[:cut], before[:cut], 1e-5)
    assert ((after[cut:] - before[cut:]).abs().amax(-1) > 0.01).all()


@torch.no_grad()
def in_pieces(model, ids, sizes):
    """Logits of ids [B, L] given in pieces of `sizes`, the rest one by one, with the cache carried along."""
    out, cache, at = [], None, 0
    for size in [*sizes, *[1] * (ids.shape[1] - sum(sizes))]:
        done = model(ids[:, at : at + size], past_key_values=cache, use_cache=True)
        cache, at = done.past_key_values, at + size
        out.append(done.logits)
    return torch.cat(out, 1)


@torch.no_grad()
def check_generation(model, prompt, new):
    """generate() equals the argmax of a forward without cache, token by token."""
    ids = prompt
    for _ in range(new):
        ids = torch.cat([ids, model(ids, use_cache=False).logits[:, -1:].argmax(-1)], 1)
    options = {"max_new_tokens": new, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    assert torch.equal(model.generate(prompt, **options), ids)
    return options


@torch.no_grad()
def check_padding(monkeypatch, model, options):
    """Rows padded on the left, or on the right, give what each gives alone; so does generate() with left padding.

    No query, padding included, is left without a key: some kernels answer that with NaN, which would spread.
    """
    module = sys.modules[type(model).__module__]
    kernel = module.scaled_dot_product_attention

    def guarded(q, k, v, visible, **kwargs):
        assert visible.any(-1).all()
        return kernel(q, k, v, visible, **kwargs)

    monkeypatch.setattr(module, "scaled_dot_product_attention", guarded)
    lengths, longest = (61, 150, 97), 150
    rows = [tokens(length, seed=length) for length in lengths]
    left, right, mask = torch.zeros(3, longest).long(), torch.zeros(3, longest).long(), torch.zeros(3, longest).long()
    for row, ids, n in zip(range(3), rows, lengths, strict=True):
        left[row, longest - n :], right[row, :n], mask[row, longest - n :] = ids[0], ids[0], 1
    to_left, to_right = model(left, attention_mask=mask).logits, model(right, attention_mask=mask.flip(1)).logits
    assert to_left.isfinite().all() and to_right.isfinite().all()
    made = model.generate(left, attention_mask=mask, **options)
    for row, ids, n in zip(range(3), rows, lengths, strict=True):
        alone = model(ids).logits[0]
        close(to_left[row, longest - n :], alone, 1e-3)
        close(to_right[row, :n], alone, 1e-3)
        assert torch.equal(made[row, longest:], model.generate(ids, **options)[0, n:])


RELOAD = """
import json, os, sys, torch
from transformers import AutoModel, AutoModelForCausalLM
assert os.listdir() == [] and not any("continuous_finetuning" in part for part in sys.path), sys.path
found, folder = {}, sys.argv[1]
try:
    AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False)
except ValueError as reason:
    found["refused"] = str(reason)
ids = torch.load(sys.argv[2])
with torch.no_grad():
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    found["class"], found["dtype"] = type(model).__name__, str(model.dtype)
    hidden = AutoModel.from_pretrained(folder, trust_remote_code=True)(ids, use_cache=False).last_hidden_state
    torch.save([model(ids).logits, model.lm_head(hidden)], sys.argv[3])
print(json.dumps(found))
"""


def check_fresh_process(folder, tmp_path, expected, ids):
    """A new process in an empty folder, with the repository out of its path, opens the checkpoint and agrees."""
    (tmp_path / "empty").mkdir()
    torch.save(ids, tmp_path / "ids.pt")
    command = [sys.executable, "-I", "-c", RELOAD, folder, tmp_path / "ids.pt", tmp_path / "logits.pt"]
    done = subprocess.run(list(map(str, command)), cwd=tmp_path / "empty", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert "trust_remote_code=True" in found["refused"]
    for logits in torch.load(tmp_path / "logits.pt"):
        close(logits, expected, 1e-5)
    return found


@torch.no_grad()
def check_sixteen_times(model, original_length):
    """Hidden states as eval_perplexity asks for them, at 16 times the original length: the loss is finite."""
    ids = tokens(16 * original_length + 1)
    hidden = model.base_model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
    logits = model.get_output_embeddings()(hidden)[0].float()
    assert torch.nn.functional.cross_entropy(logits, ids[0, 1:]).isfinite()
    return logits


def weights_are_the_bases(folder, base):
    return (folder / "model.safetensors").samefile(base / "model.safetensors") and checkpoint.KIT_VERSION in (
        folder / "config.json"
    ).read_text()
