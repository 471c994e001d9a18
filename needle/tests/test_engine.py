"""engine.py: cached, chunked and shared computation give the answers of the plain one, for every method."""

import importlib.machinery
import itertools
import json
import random
import shutil
import sys
import types

import pytest
import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM

import engine as engine_module
from conftest import EXTEND, OWN_CODE, C, L, edit_config, save_base
from engine import VLLM, Past, Transformers, parameters_at, shared_prefix

NEW = 12


def prompt(seed: int, n: int) -> list[int]:
    """n token ids; of one seed, shorter ones are the beginnings of longer ones."""
    source = random.Random(seed)
    return [0, *(source.randrange(2, 258) for _ in range(n - 1))]


def make(folder, **kwargs):
    return Transformers(folder, trust_remote_code=True, device="cpu", **kwargs)


def without_eos(engine):
    """Answers of random models run to their full length."""
    engine.load()
    engine.eos = set()
    return engine


def continued(model, ids: list[int], n: int) -> list[int]:
    """n greedy ids, the whole text computed anew for each, without a cache."""
    ids = list(ids)
    with torch.inference_mode():
        for _ in range(n):
            ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids[-n:]


def reference(folder, method: str, length: int):
    """The model in Transformers, its rope set for one length by formulas written here once more."""
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32).eval()
    rule = json.loads((folder / "config.json").read_text())["context_extension"]["rope_by_length"]
    rotary, d = model.base_model.rotary_emb, 32
    if method in ("ntk", "ntk_frozen"):
        alpha = rule["factor"] * max(length, rule["trained_length"]) / C - rule["factor"] + 1
        theta = 10000.0 * alpha ** (d / (d - 2))
        rotary.inv_freq = theta ** (-torch.arange(0, d, 2, dtype=torch.float64) / d).float()
    if method == "clex":
        t = -(-length // C)
        rotary.inv_freq = torch.tensor(rule["inv_freq"][min(t, len(rule["inv_freq"])) - 1])
        rotary.original_inv_freq = rotary.inv_freq
        rotary.attention_scaling = (torch.log(torch.tensor(length)) / torch.log(torch.tensor(C))).sqrt().item()
        rotary.rope_type = "default"  # no switch of factors inside the module
    return model


@pytest.mark.parametrize("length", [C - 20, L - 30, L + 90])
@pytest.mark.parametrize("method", [m for m in EXTEND if m != "landmark"])
def test_a_cached_answer_is_that_of_whole_forward_passes(checkpoints, method, length):
    ids = prompt(1, length - NEW)
    got = without_eos(make(checkpoints[method], prefill_chunk=33)).answer(ids, NEW)
    assert got == continued(reference(checkpoints[method], method, length), ids, NEW)
    assert len(set(got)) > 3  # a model that says one thing would prove nothing


@pytest.mark.parametrize("length", [C - 20, L - 30, L + 90])
def test_landmark_answers_as_its_own_decoding(checkpoints, length):
    """There a decoded token retrieves other blocks than a prompt's, so the reference decodes too."""
    ids = prompt(1, length - NEW)
    model = AutoModelForCausalLM.from_pretrained(checkpoints["landmark"], trust_remote_code=True).eval()
    want = model.generate(torch.tensor([ids]), max_new_tokens=NEW, do_sample=False, eos_token_id=None)[0, len(ids) :]
    for chunk in (33, len(ids) - 1, 4096):  # with len - 1, one token would be left to come alone
        assert without_eos(make(checkpoints["landmark"], prefill_chunk=chunk)).answer(ids, NEW) == want.tolist()


@pytest.mark.parametrize("method", EXTEND)
def test_chunks_and_the_cache_on_the_cpu_change_nothing(checkpoints, method):
    ids = prompt(2, L + 41)
    whole = without_eos(make(checkpoints[method], prefill_chunk=4096)).answer(ids, NEW)
    for kwargs in ({"prefill_chunk": 2}, {"prefill_chunk": 59}, {"cache_on_cpu": True}):
        assert without_eos(make(checkpoints[method], **kwargs)).answer(ids, NEW) == whole


@pytest.mark.parametrize("method", EXTEND)
def test_shared_beginnings_change_no_answer_in_any_order(checkpoints, method):
    haystack = prompt(3, 300)
    needle, question = prompt(4, 9)[1:], prompt(5, 7)[1:]
    cells = [haystack[:at] + needle + haystack[at:n] + question for n in (90, 200, 280) for at in (0, n // 2, n)]
    cells += [cells[4], cells[4][:-3], cells[4] + [7, 8, 9]]  # the same again, a part of it, a continuation
    alone = without_eos(make(checkpoints[method], reuse=False))
    want = [alone.answer(ids, 6) for ids in cells]
    assert alone.prefilled == sum(map(len, cells))
    shared = without_eos(make(checkpoints[method]))
    [planned] = shared.plan(cells, 6)
    shuffled = random.Random(0).sample(planned, len(cells))
    for order in (planned, range(len(cells)), shuffled):
        assert [(i, shared.answer(cells[i], 6)) for i in order] == [(i, want[i]) for i in order]
        if order == planned:
            ratio = shared.prefilled / alone.prefilled
    # what landmark retrieves cannot be cropped; with clex and ntk_frozen only the depths of one length share
    assert ratio == 1 if method == "landmark" else ratio < 0.85


@pytest.mark.parametrize("method", [m for m in EXTEND if m not in OWN_CODE])
def test_prompts_decoded_together_get_the_answers_they_get_alone(checkpoints, method):
    prompts = [prompt(seed, n) for seed, n in ((1, 30), (2, 200), (2, 150), (3, 77), (4, 200), (5, 64), (6, L + 40))]
    alone = without_eos(make(checkpoints[method], batch=1))
    want = alone.generate(prompts, NEW)
    together = without_eos(make(checkpoints[method], batch=4, prefill_chunk=50))
    groups = together.batches(together.plan(prompts, NEW)[0], prompts, NEW)
    assert sorted(sum(groups, [])) == list(range(7)) and max(map(len, groups)) in (2, 4)
    for group in groups:
        assert together.generate([prompts[i] for i in group], NEW) == [want[i] for i in group]
    assert together.generate(prompts, NEW) == want  # groups that nobody planned: ropes are told apart
    assert len(set(want)) == 7


def test_each_of_a_group_ends_where_it_would_alone(base):
    engine = without_eos(make(base))
    prompts = [prompt(seed, 20 + 9 * seed) for seed in range(5)]
    full = [engine.answer(ids, 20) for ids in prompts]
    engine.eos = {full[0][7], full[1][0]}
    alone = [engine.answer(ids, 20) for ids in prompts]
    assert engine.answers(prompts, 20) == alone and len({len(ids) for ids in alone}) > 2 and [] in alone
    engine.eos, stop = set(), [engine.text(full[2])[4], engine.text(full[3])[9]]
    alone = [engine.generate([ids], 20, stop)[0] for ids in prompts]
    assert engine.generate(prompts, 20, stop) == alone
    assert engine.batch == 16 and engine.reduced == [] and engine.answers(prompts, 0) == 5 * [[]]


def test_ids_that_end_an_answer_are_held_back_as_in_transformers(base):
    """LongBench's samsum: eos or a newline ends the answer, but not as its first token."""
    engine = make(base)
    prompts = [prompt(seed, 20 + 9 * seed) for seed in range(6)]
    firsts = without_eos(make(base)).answers(prompts, 8)
    ends = [firsts[0][0], firsts[1][0], firsts[2][5]]
    engine.load()
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    want = []
    for ids in prompts:
        new = model.generate(
            torch.tensor([ids]), max_new_tokens=8, min_new_tokens=1, do_sample=False, eos_token_id=[1, *ends]
        )[0, len(ids) :].tolist()
        want.append(new[:-1] if new[-1] in (1, *ends) else new)
    assert engine.answers(prompts, 8, stop_ids=ends, least=1) == want and all(want) and want != firsts
    assert engine.generate(prompts, 8, stop_ids=ends, least=1) == [engine.text(ids) for ids in want]


def test_own_attention_and_caches_on_the_cpu_are_decoded_alone(checkpoints, base):
    assert [make(checkpoints[method]).batch for method in OWN_CODE] == [1, 1, 1]
    assert make(base, cache_on_cpu=True).batch == 1


def test_groups_stay_within_the_room_for_their_caches(base, monkeypatch):
    engine = make(base)
    prompts = [prompt(1, n) for n in (10, 10, 10, 30, 90, 10)]
    monkeypatch.setattr(engine, "room", lambda: 100)
    assert engine.batches(range(6), prompts, 10) == [[0, 1, 2], [3], [4], [5]]
    monkeypatch.undo()
    free = engine_module.psutil.virtual_memory().available
    assert 0.1 * free < engine.room() * 2 * 2 * 1 * 32 * 4 < 0.2 * free  # keys and values, layers, heads, width, bytes


def test_a_group_too_large_for_the_memory_is_halved(base, monkeypatch):
    engine = without_eos(make(base))
    prompts = [prompt(seed, 30) for seed in range(8)]
    want = [engine.generate([ids], 4)[0] for ids in prompts]
    put = Past.put

    def limited(layer, row, rows, other):
        if rows > 3:
            raise torch.OutOfMemoryError("simulated")
        put(layer, row, rows, other)

    monkeypatch.setattr(Past, "put", limited)
    assert engine.generate(prompts, 4) == want
    assert engine.reduced == [{"prompts": 8, "tokens": 30}, {"prompts": 4, "tokens": 30}] and engine.batch == 2


def test_the_last_logits_of_a_reused_prefix_differ_by_rounding_only(checkpoints):
    for method in ("yarn", "lm_infinite", "self_extend"):
        first, second = prompt(3, 250), prompt(3, 180) + prompt(6, 60)[1:]
        last = []
        for before in ([], [first]):
            engine = without_eos(make(checkpoints[method]))
            for ids in before:
                engine.answer(ids, 3)
            engine.model.lm_head.register_forward_hook(lambda module, args, out, last=last: last.append(out))
            engine.answer(second, 1)
        assert last[0].shape == (1, 1, 258)  # of the last position only
        torch.testing.assert_close(*last, rtol=1e-4, atol=1e-4)


def test_the_planned_order_reaches_the_bound_of_the_prefix_tree(checkpoints):
    haystack, needle, question = prompt(7, 150), prompt(8, 6)[1:], prompt(9, 4)[1:]
    cells = [(n, n * depth // 4) for n in range(30, 150, 17) for depth in range(5)]
    prompts = [haystack[:at] + needle + haystack[at:n] + question for n, at in random.Random(1).sample(cells, 40)]
    distinct = {tuple(p[:n]) for p in prompts for n in range(1, len(p) + 1)}
    engine = without_eos(make(checkpoints["yarn"]))
    [order] = engine.plan(prompts, 2)
    engine.generate([prompts[i] for i in order], 2)
    assert sorted(order) == list(range(len(prompts)))
    assert engine.prefilled == len(distinct) and engine.generated == 2 * len(prompts)


def test_the_plan_keeps_prompts_of_one_rope_together(checkpoints):
    engine = without_eos(make(checkpoints["ntk"]))
    lengths = [L - 50, L + 10, L - 20, L + 10, 40]  # two are longer than what it was trained on
    prompts = [prompt(1, n) + prompt(10 + i, 5)[1:] for i, n in enumerate(lengths)]
    [order] = engine.plan(prompts, 10)
    engine.generate([prompts[i] for i in order], 10)
    assert {frozenset(order[:2]), frozenset(order[3:])} & {frozenset({1, 3})}
    # once the longest of each rope, and of the others what differs at their ends
    assert engine.prefilled == (L - 20 + 4 + 4 + 4) + (L + 10 + 4 + 4)


def test_ranks_get_contiguous_runs_of_about_equal_work(base):
    engine = make(base)
    prompts = [prompt(1, n) + prompt(d, 20)[1:] for n in range(40, 400, 30) for d in range(5)]
    [order] = engine.plan(prompts, 10)
    for ranks in (2, 3, 8):
        shares = engine.plan(prompts, 10, ranks)
        assert len(shares) == ranks and sum(shares, []) == order
        work = []
        for share in shares:
            pairs = itertools.pairwise([prompts[i] for i in share])
            work.append(sum(len(b) - shared_prefix(a, b) + 10 for a, b in pairs))
        assert max(work) - min(work) <= max(map(len, prompts)) + 10
    assert engine.plan(prompts[:2], 10, 4).count([]) == 2 and engine.plan([], 10, 2) == [[], []]


def test_a_text_ends_at_eos_at_a_stop_string_or_at_its_length(base):
    engine = without_eos(make(base))
    ids = prompt(1, 30)
    full = engine.answer(ids, 20)
    at = next(i for i in range(5, 20) if full[i] not in full[:i])
    engine.eos = {full[at]}
    assert engine.answer(ids, 20) == full[:at] and engine.answer(ids, 3) == full[:3] and engine.answer(ids, 0) == []
    engine.eos = set()
    text = engine.text(full)
    k = next(k for k in range(5, 18) if text[k - 1 : k + 1].isascii() and text[k] not in text[:k])
    made = engine.generated
    for stop in ([text[k]], ["never", text[k]]):
        assert engine.generate([ids, ids], 20, stop) == 2 * [text[:k]]
    assert engine.generate([ids], 20, [text[k], text[k - 1 : k + 1]]) == [text[: k - 1]]  # the first that begins
    assert engine.generated - made < 5 * 20  # it did not go on to the end
    assert engine.generate([ids], 20) == [text]


def test_eos_is_both_the_tokenizers_and_the_generation_configs(base, tmp_path):
    folder = shutil.copytree(base, tmp_path / "model")
    edit_config(folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 6]}))
    engine = make(folder)
    engine.load()
    assert engine.eos == {1, 5, 6}


def test_what_the_checkpoint_says_is_known_before_the_weights_are_read(checkpoints, base):
    engine = make(checkpoints["yarn"])
    assert engine.model is None and engine.window == L and engine.record["method"] == "yarn"
    assert (engine.dtype, engine.attention, engine.batch) == ("float32", "sdpa", 16)
    assert make(base).record is None and make(base).window == C


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_dtypes(base, dtype):
    engine = make(base, dtype=dtype)
    assert len(engine.generate([prompt(1, 20)], 3)) == 1
    assert engine.model.dtype == getattr(torch, dtype) == engine.cache.layers[0].keys.dtype


@pytest.mark.parametrize("fails", ["in a layer", "while the cache grows"])
def test_after_running_out_of_memory_the_engine_goes_on(checkpoints, monkeypatch, fails):
    engine = without_eos(make(checkpoints["yarn"], prefill_chunk=20))
    long, short = prompt(1, 90), prompt(1, 50) + prompt(2, 20)
    want = [without_eos(make(checkpoints["yarn"])).answer(ids, 5) for ids in (long, short)]
    engine.answer(short, 5)
    calls = itertools.count()

    def fail(module, args):
        if next(calls) == 2:
            raise torch.OutOfMemoryError("simulated")

    def grow(past, capacity, keys, values):
        past.keys = keys.new_empty(*keys.shape[:2], capacity, keys.shape[3])
        raise torch.OutOfMemoryError("simulated")

    with monkeypatch.context() as patch:
        if fails == "in a layer":
            hook = engine.model.model.layers[1].mlp.register_forward_pre_hook(fail)
        else:
            patch.setattr(Past, "grow", grow)
        with pytest.raises(torch.OutOfMemoryError):
            engine.answer(long, 5)
    if fails == "in a layer":
        hook.remove()
    assert engine.held == [] and engine.cache is None  # its memory is free
    assert [engine.answer(ids, 5) for ids in (long, short)] == want


def test_a_foreign_dynamic_rope_is_fixed_for_the_whole_text(tmp_path):
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    folder = save_base(tmp_path, rope_parameters=rope)
    engine = without_eos(make(folder, prefill_chunk=30))
    for n in (150, 90, 30):  # Transformers' own module would remember the longest
        theta = 10000.0 * max(1.0, 2.0 * (n + NEW) / C - 1) ** (32 / 30)
        plain = AutoModelForCausalLM.from_pretrained(folder).eval()
        plain.config.rope_parameters = {"rope_type": "default", "rope_theta": theta}
        plain.model.rotary_emb = type(plain.model.rotary_emb)(plain.config)
        assert engine.answer(prompt(1, n), NEW) == continued(plain, prompt(1, n), NEW)


def test_a_foreign_longrope_has_one_set_of_factors_for_the_whole_text(tmp_path):
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": C, "factor": 4.0}
    rope |= {"short_factor": [1.0] * 16, "long_factor": [3.0 + i / 4 for i in range(16)]}
    folder = save_base(tmp_path, rope_parameters=rope, max_position_embeddings=L)
    engine = without_eos(make(folder, prefill_chunk=30))
    plain = AutoModelForCausalLM.from_pretrained(folder).eval()
    for n in (150, 30):
        assert engine.answer(prompt(1, n), NEW) == continued(plain, prompt(1, n), NEW)


def test_past_appends_and_crops_as_concatenation_does():
    past, keys = Past(on_cpu=True), torch.empty(1, 2, 0, 4)
    past.expected = 7
    for n, keep in [(3, 3), (2, 4), (5, 9), (1, 2), (6, 8)]:
        new = torch.randn(1, 2, n, 4)
        keys = torch.cat([keys, new], 2)
        got, values = past.update(new, -new)
        assert torch.equal(got, keys) and torch.equal(values, -keys) and past.get_seq_length() == keys.shape[2]
        keys, past.length = keys[:, :, :keep], keep


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("method", EXTEND)
def test_on_a_gpu_the_cache_may_lie_in_cpu_memory(checkpoints, method):
    prompts = [prompt(1, 200), prompt(1, 150) + prompt(2, 40)[1:]]
    want, got = (
        Transformers(checkpoints[method], trust_remote_code=True, dtype="float32", cache_on_cpu=on)
        for on in (False, True)
    )
    assert got.generate(prompts, NEW) == want.generate(prompts, NEW)
    assert got.cache.layers[0].keys.device.type == "cpu"


# --- what is refused, in one line and before any weight is read


def refusal(call, *args, **kwargs) -> str:
    with pytest.raises(ValueError) as error:
        call(*args, **kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("method", OWN_CODE)
def test_own_code_needs_trust(checkpoints, method):
    assert "read it, then add --trust_remote_code" in refusal(Transformers, checkpoints[method])


def test_folders_that_are_no_checkpoints(base, tmp_path):
    assert "no folder ./nowhere" in refusal(Transformers, "./nowhere")
    assert "no config.json" in refusal(Transformers, tmp_path)
    shutil.copyfile(base / "config.json", tmp_path / "config.json")
    assert "no *.safetensors weights" in refusal(Transformers, tmp_path)
    shutil.copyfile(base / "model.safetensors", tmp_path / "model.safetensors")
    assert "no tokenizer in" in refusal(Transformers, tmp_path)
    (tmp_path / "config.json").write_text("{")
    assert "cannot open" in refusal(Transformers, tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "unheard_of"}')
    assert "cannot open" in refusal(Transformers, tmp_path)
    assert "prefill_chunk 1" in refusal(Transformers, base, prefill_chunk=1)
    assert "empty prompt" in refusal(Transformers(base).answer, [], 5)


def test_missing_and_broken_weights(base, tmp_path):
    folder = shutil.copytree(base, tmp_path / "model")
    edit_config(folder, num_hidden_layers=3)
    assert "lacks the weights model.layers.2." in refusal(Transformers(folder).load)
    (folder / "model.safetensors").write_bytes(b"not a tensor")
    assert "cannot load" in refusal(Transformers(folder).load)


def test_an_unknown_rope_rule(base, tmp_path):
    folder = edit_config(shutil.copytree(base, tmp_path / "model"), context_extension={"rope_by_length": {"rule": "x"}})
    assert "rope_by_length names the rule 'x'" in refusal(Transformers, folder)


# --- vLLM, which cannot be installed beside every torch: its documented interface, played by a stand-in


FORTY_TWO = [2 + sorted(pre_tokenizers.ByteLevel.alphabet()).index(c) for c in "Ġ42"]


@pytest.fixture
def vllm(monkeypatch):
    calls = []

    class LLM:
        def __init__(self, **kwargs):
            calls.append(kwargs)

        def generate(self, prompts, params, use_tqdm):
            calls.append((prompts, params))
            output = types.SimpleNamespace(text="", token_ids=FORTY_TWO)
            return [types.SimpleNamespace(outputs=[output], num_cached_tokens=n) for n in (None, 16)]

    module = types.ModuleType("vllm")
    module.LLM, module.SamplingParams = LLM, lambda **kwargs: kwargs
    module.__spec__ = importlib.machinery.ModuleSpec("vllm", None)
    monkeypatch.setitem(sys.modules, "vllm", module)
    return calls


def test_vllm_is_asked_for_greedy_answers_to_token_ids(checkpoints, vllm):
    engine = VLLM(checkpoints["yarn"], max_length=L, dtype="float32")
    assert vllm == [] and engine.batch > 1
    prompts = [prompt(1, 30), prompt(1, 40)]
    assert engine.generate(prompts, 10, ["."]) == [" 42", " 42"]
    assert vllm[0]["model"] == str(checkpoints["yarn"]) and vllm[0]["max_model_len"] == L
    assert vllm[0]["enable_prefix_caching"] is True and vllm[0]["dtype"] == "float32"
    sent, params = vllm[1]
    assert [p["prompt_token_ids"] for p in sent] == prompts
    assert params == {"temperature": 0, "max_tokens": 10, "stop": ["."], "stop_token_ids": [], "min_tokens": 0}
    assert (engine.prefilled, engine.generated) == (30 + 40 - 16, 6)
    engine.generate(prompts, 10)
    assert len(vllm) == 3  # one engine for all calls


def test_vllm_takes_what_it_can_run_rightly(checkpoints, base, vllm, tmp_path):
    for method in OWN_CODE:
        assert "vLLM cannot run" in refusal(VLLM, checkpoints[method], max_length=C)
    for method in ("ntk", "pi", "yarn", "longlora", "origin"):
        VLLM(checkpoints[method], max_length=L)
    assert "depends on the length" in refusal(VLLM, checkpoints["ntk"], max_length=L + 1)
    assert "depends on the length" in refusal(VLLM, checkpoints["ntk_frozen"], max_length=L)
    assert "depends on the length" in refusal(VLLM, checkpoints["clex"], max_length=L)
    assert "beyond the 64" in refusal(VLLM, base, max_length=C + 1)
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    assert "depends on the length" in refusal(VLLM, save_base(tmp_path, rope_parameters=rope), max_length=2 * C)


def test_vllm_that_is_not_installed(base, monkeypatch):
    monkeypatch.setattr(engine_module.importlib.util, "find_spec", lambda name: None)
    assert "vLLM is not installed" in refusal(VLLM, base, max_length=C)


def test_the_rope_follows_the_rule_at_any_length(checkpoints):
    config = make(checkpoints["ntk"]).config
    at = {n: parameters_at(config, n)["rope_theta"] for n in (10, L, 2 * L)}
    assert at[10] == at[L] == config.rope_parameters["rope_theta"] < at[2 * L]
