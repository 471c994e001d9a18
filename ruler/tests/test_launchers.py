"""run.sh and eval.sh as a user runs them."""

import sys

from run import read_json

import pytest

import call_api
from store import read_lines
from tasks import read_tasks
from tiny import run


@pytest.fixture
def launch(tmp_path):
    """launch(words..., expect=0, VARIABLE=value) runs run.sh without running its Python scripts; returns its output."""

    def launch(*words, **variables):
        return run("bash", "run.sh", *words, **{"PYTHON": "true", "ROOT_DIR": tmp_path / "results"} | variables)

    return launch


def test_a_name_of_config_models_and_variables_that_come_before_it(launch, tmp_path):
    prepare, call = launch("llama2-7b-hf", "synthetic").splitlines()
    root = f"{tmp_path}/results/{{model}}/synthetic/{{length}}"
    assert f"data/prepare.py --save_dir {root}/data " in prepare and "--num_samples 500" in prepare
    assert f"pred/call_api.py --data_dir {root}/data --save_dir {root}/pred" in call
    assert "--model_name llama2-7b-hf --model_name_or_path meta-llama/Llama-2-7b-hf --server_type hf" in call
    for part in (f"--task {','.join(read_tasks('synthetic'))} ", "--max_seq_length 4096 8192 16384 32768 65536"):
        assert part in prepare and part in call

    name = "llama2-7b-hf-slimpajama-yarn-32k"
    printed = launch(name, "synthetic", MODEL_DIR="/m", MODEL_FRAMEWORK="vllm", TENSOR_PARALLEL=2, BATCH_SIZE=4)
    assert "--model_name_or_path /m/llama2-7b-hf-slimpajama_yarn_32768 --server_type vllm" in printed
    assert "--batch_size 16 --tensor_parallel_size 2" in printed  # BATCH_SIZE is the training's
    printed = launch("served", "synthetic", "--server_host", "h", MODEL_FRAMEWORK="openai", TOKENIZER_PATH="some/where")
    assert "--model_name_or_path served" in printed and "--tokenizer_path some/where" in printed


def test_several_models_are_shared_among_gpus(launch, tmp_path):
    models = [tmp_path / "a", tmp_path / "b", tmp_path / "c" / "checkpoint-7"]
    for model in models:
        model.mkdir(parents=True)
    variables = {"SEQ_LENGTHS": "256 512", "TASKS": "vt,cwe qa_1", "EVAL_BATCH_SIZE": 4}
    printed = launch(*models, "synthetic", "--dtype", "bfloat16", GPUS="3 5", **variables)
    assert f"--tokenizer_path {models[0]} {models[1]} {models[2]} --max_seq_length 256 512 " in printed
    assert "--model_name a c_checkpoint-7 --model_name_or_path" in printed
    assert "--model_name b --model_name_or_path" in printed
    assert printed.count("--batch_size 4 ") == printed.count(" --dtype bfloat16") == 2
    assert printed.count("--task vt,cwe,qa_1 ") == 3
    printed = launch("synthetic", CHECKPOINTS=f"{models[1]} {models[2]}", NPROC=2, PYTHON="false", expect=1)
    assert "--nproc_per_node=2" in printed and f"failed: {models[1]}" in printed


@pytest.mark.parametrize("words", [[], ["synthetic", "--dtype"], ["a/b", "other"], ["a", "x[1]"]])
def test_bad_input_ends_with_one_line(launch, words):
    printed = launch(*words, expect=1)
    assert printed.startswith("error: ") and printed.count("\n") == 1


def test_run_and_eval_as_a_user_on_two_ranks(checkpoint, other, tmp_path, call):
    """Data, answers of two models on two ranks, scores, table; the answers are those of one process."""
    root, tasks = tmp_path / "results", "niah_single_1,vt,qa_1"
    variables = {"ROOT_DIR": root, "SEQ_LENGTHS": "1024", "NUM_SAMPLES": 6, "TASKS": tasks, "PYTHON": sys.executable}
    flags = "--tokens_to_generate 8"
    printed = run("bash", "run.sh", checkpoint, other, "synthetic", NPROC=2, PREPARE_FLAGS=flags, **variables)
    assert printed.count("WARNING: 1024 tokens are beyond the 512") == 2
    pred = root / "other" / "synthetic" / "1024" / "pred"
    assert (pred / "summary.csv").read_text().startswith("0,1,2,3\nTasks,niah_single_1,vt,qa_1\nScore,")
    assert "stand-in data, not RULER's: qa_1" in run("bash", "eval.sh", **variables)
    scores = read_json(pred / "scores.json")
    assert scores["name"] == "other" and scores["length"] == 1024 and scores["tasks"]["vt"]["n"] == 6
    assert read_json(pred / "runs" / "vt.json")["processes"] == 2

    words = ["--data_dir", pred.parent / "data", "--save_dir", tmp_path / "one", "--task", tasks]
    assert call(call_api, *words, "--max_seq_length", 1024, "--model_name_or_path", other)[1] is None
    for task in tasks.split(","):
        two, one = (read_lines(folder / f"{task}.jsonl")[0] for folder in (pred, tmp_path / "one"))
        assert [(row["index"], row["pred"]) for row in two] == [(row["index"], row["pred"]) for row in one]
        assert len(one) == 6 and not list(pred.rglob("*.rank*"))
