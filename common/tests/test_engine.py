"""The engines: caching, chunks, common beginnings, groups and fixed-size steps change no answer."""

import itertools
import math
import random
import shutil

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM

from answers import answer_all, answer_group
from attention import CACHED
from decode import Decoder
from engine import cut_at, shared_prefix
from rope import RopeSetter, rope_at
from tiny import BASES, EXTEND, C, L, save_base
from transformers_engine import Transformers

NEW = 12  # tokens to generate
LENGTHS = [C - 20, L - 30, L + 90]  # of prompt and answer: within the base's window, the extended one, beyond both


def random_prompt(seed: int, n: int) -> list[int]:
    """n token ids after <s>; with one seed, shorter prompts are the beginnings of longer ones."""
    return [0, *random.Random(seed).choices(range(2, 258), k=n - 1)]


def needle_prompts(lengths, depths: int) -> list[list[int]]:
    """A haystack cut to each length, with a needle at each depth and a question at the end."""
    haystack, needle, question = random_prompt(3, 300), random_prompt(4, 9)[1:], random_prompt(5, 7)[1:]
    places = [(n, n * depth // (depths - 1)) for n in lengths for depth in range(depths)]
    return [haystack[:at] + needle + haystack[at:n] + question for n, at in places]


def open_tiny(folder, eos_ids=(), **kwargs) -> Transformers:
    """The engine with other EOS ids: without any, the answers of random models have their full length."""
    engine = Transformers(folder, trust_remote_code=True, device="cpu", **kwargs)
    engine.load()
    engine.eos_ids = set(eos_ids)
    return engine


def answer_ids(engine, prompt: list[int], n: int = NEW) -> list[int]:
    return engine.generate_ids([prompt], n)[0]


def own_answer(model, prompt: list[int], **options) -> list[int]:
    """The token ids that the model's own `generate` answers."""
    options = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": None} | options
    return model.generate(torch.tensor([prompt]), **options)[0, len(prompt) :].tolist()


# --- the computation
@torch.inference_mode()
def greedy_without_cache(model, prompt: list[int]) -> list[int]:
    """By Transformers, with the rope of the whole text (which test_rope.py compares with the formulas)."""
    RopeSetter(model).set(rope_at(model.config, len(prompt) + NEW))
    ids = list(prompt)
    for _ in range(NEW):
        ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids[-NEW:]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("method", EXTEND)
def test_cached_answer_equals_whole_forward_passes(checkpoints, method, length):
    """A decoded token of Landmark retrieves other blocks than a prompt's token does, so its reference decodes too."""
    prompt = random_prompt(1, length - NEW)
    model = AutoModelForCausalLM.from_pretrained(checkpoints[method], trust_remote_code=True, dtype="float32").eval()
    expected = (own_answer if method == "landmark" else greedy_without_cache)(model, prompt)
    for chunk in (33, len(prompt) - 1):  # with len - 1, the last token would come alone
        assert answer_ids(open_tiny(checkpoints[method], prefill_chunk=chunk), prompt) == expected
    assert len(set(expected)) > 3


@pytest.mark.parametrize("method", EXTEND)
def test_shared_prefixes_chunks_and_a_cache_on_the_cpu_change_no_answer(checkpoints, method):
    prompts = needle_prompts((90, 280), 3)
    prompts += [prompts[4], prompts[4][:-3], prompts[4] + [7, 8, 9]]
    alone = open_tiny(checkpoints[method], prefill_chunk=4096)
    expected = []
    for prompt in prompts:
        alone.clear_cache()
        expected.append(answer_ids(alone, prompt, 6))
    assert alone.prefilled_tokens == sum(map(len, prompts))
    engine = open_tiny(checkpoints[method], prefill_chunk=59)
    [planned] = engine.plan(prompts, 6)
    assert [answer_ids(engine, prompts[i], 6) for i in planned] == [expected[i] for i in planned]
    ratio = engine.prefilled_tokens / alone.prefilled_tokens
    # landmark's cache cannot be cropped; with clex and ntk_frozen only prompts of one length share a rope
    assert ratio == 1 if method == "landmark" else ratio < 0.85
    shuffled = random.Random(0).sample(planned, len(prompts))
    engine = open_tiny(checkpoints[method], prefill_chunk=20, cache_on_cpu=True)
    assert [answer_ids(engine, prompts[i], 6) for i in shuffled] == [expected[i] for i in shuffled]


@pytest.mark.parametrize("method", EXTEND)
def test_prompts_decoded_together_get_the_answers_they_get_alone(checkpoints, method):
    places = ((1, 30), (2, 200), (2, 150), (3, 77), (4, 200), (5, 64), (6, L + 40))
    prompts = [random_prompt(seed, n) for seed, n in places]
    expected = open_tiny(checkpoints[method], batch_size=1).generate(prompts, NEW)
    engine = open_tiny(checkpoints[method], batch_size=4, prefill_chunk=50)
    groups = engine.batches(engine.plan(prompts, NEW)[0], prompts, NEW)
    assert sorted(sum(groups, [])) == list(range(7)) and max(map(len, groups)) in (2, 4)
    for group in groups:
        assert engine.generate([prompts[i] for i in group], NEW) == [expected[i] for i in group]
    assert engine.generate(prompts, NEW) == expected  # of several ropes, and not planned
    assert len(set(expected)) == 7


class Recording(TorchDispatchMode):
    """Stands in for a CUDA graph: records the operators of a decoding step, and repeats them in the same memory."""

    def __init__(self, decoder, visible: int):
        super().__init__()
        self.calls = []
        before = [decoder.token_B1.clone(), decoder.position_B1.clone()]
        with self:
            decoder.forward(visible)
        decoder.token_B1.copy_(before[0])
        decoder.position_B1.copy_(before[1])

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = operator(*args, **kwargs)
        self.calls.append((operator, args, kwargs, result))
        return result

    def replay(self):
        for operator, args, kwargs, result in self.calls:
            again = operator(*args, **kwargs)
            for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("method", EXTEND)
def test_recorded_steps_give_the_same_answers(checkpoints, monkeypatch, method, batch_size):
    """A graph has fixed shapes and addresses, and nothing that Python decides at a later step reaches it."""
    prompts = [random_prompt(seed, n) for seed, n in ((1, 30), (2, 200), (2, 150), (3, 77), (6, L + 40))]
    expected = open_tiny(checkpoints[method], batch_size=1).generate(prompts, NEW)
    monkeypatch.setattr(Decoder, "capture", lambda decoder, visible: Recording(decoder, visible))
    engine = open_tiny(checkpoints[method], batch_size=batch_size, prefill_chunk=50)
    engine.use_graph = True
    for _ in range(2):  # then with the graphs of before
        assert engine.generate(prompts, NEW) == expected
    assert (engine.group or engine.decoder).graphs


@pytest.mark.parametrize("method", EXTEND)
def test_a_step_never_waits_for_the_gpu(checkpoints, method):
    """Tensors of the meta device have no values: a step that needed one, which no graph can hold, would fail."""
    engine = open_tiny(checkpoints[method])
    engine.set_rope(L)
    engine.set_attention(CACHED)
    model = engine.model.to("meta")
    heads, width = model.config.num_key_value_heads, model.config.head_dim
    keys = torch.empty(3, heads, 320, width, device="meta")
    decoder = Decoder(model, [(keys, keys)] * len(model.model.layers), use_graph=False)
    decoder.forward(256)


@pytest.mark.parametrize("method", EXTEND)
def test_layers_on_two_devices(checkpoints, monkeypatch, method):
    """As --device_map auto spreads them. Operators refuse tensors of the CPU beside those of the meta device."""
    engine = open_tiny(checkpoints[method])
    engine.set_rope(L)
    model = engine.model.model
    for module in (model.layers[1], model.norm, engine.model.lm_head):
        add_hook_to_module(module.to("meta"), AlignDevicesHook(execution_device="meta"))
    assert engine.prefill(random_prompt(1, 100), 100 + NEW).is_meta
    monkeypatch.setattr("decode.most_probable", lambda logits_BV: torch.zeros(1, 1, dtype=torch.int64))
    engine.set_attention(CACHED)
    decoder = engine.find_decoder()
    decoder.start([100], 100 + NEW)
    assert decoder.step([3]) == [0]
    assert [layer.keys.is_meta for layer in decoder.cache.layers] == [False, True]


@pytest.mark.parametrize("model_type", [*BASES, "falcon", "llama4_text"])
def test_other_architectures_answer_as_their_own_generate(tmp_path, model_type):
    """Sliding windows, chunks, capped scores, scaled logits, partly rotated and wide heads; groups, a shared prefix."""
    rope = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": C}
    if model_type in ("phi3", "falcon", "llama4_text"):
        rope = {"rope_type": "default", "rope_theta": 1e6}
    if model_type == "glm4":
        rope["partial_rotary_factor"] = 0.5
    changes = {"llama4_text": {"attention_chunk_size": 32, "num_local_experts": 2, "head_dim": 32}}.get(model_type, {})
    folder = save_base(tmp_path, model_type, max_position_embeddings=L, rope_parameters=rope, **changes)
    prompts = [random_prompt(1, n) for n in (30, 64, 150)] + [random_prompt(2, 200)]
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    expected = [own_answer(model, prompt) for prompt in prompts]
    alone = Transformers(folder, device="cpu").batch_size == 1  # known before the weights are read
    assert alone == (model_type in ("qwen2", "gemma2", "falcon", "llama4_text"))
    engine = open_tiny(folder, prefill_chunk=37)
    answers = []
    for group in engine.batches(range(4), prompts, NEW):
        answers += engine.generate_ids([prompts[i] for i in group], NEW)
    assert answers == expected and len(set(expected[3])) > 3
    assert engine.prefilled_tokens < sum(map(len, prompts))


def test_each_prompt_of_a_group_stops_where_it_would_alone(base):
    engine = open_tiny(base)
    prompts = [random_prompt(seed, 20 + 9 * seed) for seed in range(5)]
    full = engine.generate_ids(prompts, 20)
    engine.eos_ids = {full[0][7], full[1][0]}
    answers = engine.generate_ids(prompts, 20)
    assert answers == [answer_ids(engine, prompt, 20) for prompt in prompts]
    assert answers[1] == [] and len(set(map(len, answers))) > 2
    engine.eos_ids, engine.generated_tokens = set(), 0
    stop_strings = [next(c for c in engine.decode(full[row])[4:] if c.isascii()) for row in (2, 3)]
    assert engine.generate(prompts, 20, stop_strings) == [cut_at(engine.decode(ids), stop_strings) for ids in full]
    assert engine.generated_tokens < 5 * 20  # not all were decoded to the end
    assert cut_at("abcd", ["cd", "bc", "x"]) == "a"


def test_min_new_tokens_masks_eos_and_stop_ids_as_transformers_does(base):
    prompts = [random_prompt(seed, 20 + 9 * seed) for seed in range(6)]
    unmasked = open_tiny(base).generate_ids(prompts, 8)
    stop_ids = [unmasked[0][0], unmasked[1][0], unmasked[2][5]]
    end_ids = [1, *stop_ids]
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    expected = []
    for prompt in prompts:
        ids = own_answer(model, prompt, max_new_tokens=8, min_new_tokens=1, eos_token_id=end_ids)
        expected.append(ids[:-1] if ids[-1] in end_ids else ids)
    answers = open_tiny(base, {1}).generate_ids(prompts, 8, stop_ids=stop_ids, min_new_tokens=1)
    assert answers == expected and all(expected) and expected != unmasked


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kwargs", [{"batch_size": 1}, {"batch_size": 8}, {"cache_on_cpu": True}])
@pytest.mark.parametrize("method", EXTEND)
def test_on_a_gpu_answers_are_those_of_the_cpu(checkpoints, method, kwargs):
    """CUDA graphs, masks and prefix reuse in float32: rows of unlike length, EOS at different steps, stop strings."""
    prompts = [random_prompt(1, n) for n in (30, 60, 200)]
    prompts += [random_prompt(1, 100) + random_prompt(seed, 40) for seed in (2, 3)]
    prompts += [random_prompt(seed, 150) for seed in (4, 5, 6)]
    answers = []
    for device in ("cpu", "cuda"):
        engine = Transformers(checkpoints[method], True, "float32", device, **kwargs)
        engine.load()
        engine.eos_ids = set(range(2, 40))
        answers.append([engine.generate(prompts, NEW, stop_strings=["e"], min_new_tokens=1) for _ in range(2)])
    assert answers[0] == answers[1] and answers[0][0] == answers[0][1]


# --- groups, memory, plan
def test_batch_size_and_token_budget_limit_the_groups(base, monkeypatch):
    engine = open_tiny(base)
    prompts = [random_prompt(1, n) for n in (10, 10, 10, 30, 90, 10)]
    bytes_per_token = 2 * 2 * 1 * 32 * 4  # keys and values, layers, heads, width, float32
    assert engine.token_budget() * bytes_per_token == engine.free_bytes / 2
    monkeypatch.setattr(engine, "token_budget", lambda: 100)
    assert engine.batches(range(6), prompts, 10) == [[0, 1, 2], [3], [4], [5]]


def failing(function, is_full):
    """A function that is out of memory if is_full(*its arguments)."""

    def call(*args):
        if is_full(*args):
            raise torch.OutOfMemoryError("simulated")
        return function(*args)

    return call


def test_a_group_that_runs_out_of_memory_is_halved_until_it_fits(base, monkeypatch):
    engine = open_tiny(base, prefill_chunk=20)
    prompts = [random_prompt(seed, 30) for seed in range(7)] + [random_prompt(7, 300)]
    expected = [engine.generate([prompt], 4)[0] for prompt in prompts]
    prepare_group = failing(Transformers.prepare_group, lambda engine, rows, capacity: rows > 3)
    mlp = engine.model.model.layers[1].mlp  # runs when the first layer has its keys and values
    forward = failing(mlp.forward, lambda hidden: engine.cache.get_seq_length() > 200)
    with monkeypatch.context() as patch:
        patch.setattr(Transformers, "prepare_group", prepare_group)
        patch.setattr(mlp, "forward", forward)
        answers = answer_group(engine, prompts, 4)
    assert engine.cached_ids == [] and engine.cache is None  # its memory is free
    assert [answer.text for answer in answers] == [*expected[:7], None]
    assert answers[7].error == "out of memory: simulated" and engine.batch_size == 1
    assert {answer.costs["batch_size"] for answer in answers} <= {1, 2, 3}
    assert [answer.text for answer in answer_group(engine, prompts, 4)] == expected


def test_the_planned_order_computes_each_edge_of_the_prefix_tree_once(checkpoints):
    prompts = random.Random(1).sample(needle_prompts(range(30, 150, 17), 5), 40)
    prefixes = {tuple(prompt[:n]) for prompt in prompts for n in range(1, len(prompt) + 1)}
    engine = open_tiny(checkpoints["yarn"])
    answers = dict(answer_all(engine, prompts, 2, "test"))
    assert [answers[i].text for i in range(40)] == open_tiny(checkpoints["yarn"]).generate(prompts, 2)
    prefilled = sum(answer.costs["prefilled_tokens"] for answer in answers.values())
    assert round(prefilled) == engine.prefilled_tokens == len(prefixes)
    assert all(answer.costs["generated_tokens"] == 2 and answer.costs["seconds"] > 0 for answer in answers.values())


def test_ranks_get_contiguous_shares_of_about_equal_work(base):
    engine = open_tiny(base)
    prompts = [random_prompt(1, n) + random_prompt(d, 20)[1:] for n in range(40, 400, 30) for d in range(5)]
    shares = engine.plan(prompts, 10, 8)
    assert [sum(shares, [])] == engine.plan(prompts, 10)
    work = []
    for share in shares:
        pairs = itertools.pairwise([prompts[i] for i in share])
        work.append(sum(len(b) - shared_prefix(a, b) + 10 for a, b in pairs))
    assert max(work) - min(work) <= max(map(len, prompts)) + 10
    assert engine.plan(prompts[:2], 10, 4).count([]) == 2 and engine.plan([], 10, 2) == [[], []]


# --- what an engine says about itself, and what it refuses
def test_an_engine_describes_itself(base, checkpoints, tmp_path):
    engine = Transformers(checkpoints["yarn"], device="cpu", batch_size=3)
    assert engine.model is None  # nothing is read yet
    expected = {"method": "yarn", "trained_length": L, "dtype": "float32", "attention": "sdpa", "batch_size": 3}
    assert engine.describe().items() > expected.items()
    assert engine.fingerprint != Transformers(base).fingerprint
    folder = shutil.copytree(base, tmp_path / "model")
    (folder / "generation_config.json").write_text('{"eos_token_id": [5, 6]}')
    settings = [Transformers(path, device="cpu").settings() for path in (base, folder)]
    (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text() + "\n")
    settings.append(Transformers(folder, device="cpu").settings())
    assert len({each["tokenizer"] for each in settings}) == 3  # answers before such a change are not kept
    assert len({each["checkpoint"] for each in settings}) == 1
    engine = Transformers(folder, device="cpu", dtype="bfloat16")
    engine.generate([random_prompt(1, 20)], 3)
    assert engine.eos_ids == {1, 5, 6}  # the tokenizer's and the generation config's
    assert engine.model.dtype == engine.cache.layers[0].keys.dtype == torch.bfloat16


@pytest.mark.parametrize("method", ["origin", "landmark"])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_logits_that_are_not_finite_are_an_error(checkpoints, method, batch_size):
    engine = open_tiny(checkpoints[method], batch_size=batch_size)
    prompts = [random_prompt(1, 20), random_prompt(2, 20)][:batch_size]
    weight = engine.model.get_input_embeddings().weight
    first = engine.generate_ids(prompts, 2)[0][0]
    for broken in ((first, 0), slice(None)):  # first only the logits of the first decoded token, then all
        weight.data[broken] = math.nan
        with pytest.raises(ValueError, match="not finite"):
            engine.generate_ids(prompts, 4)
