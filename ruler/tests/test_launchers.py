"""run.sh and eval.sh as a user runs them."""

import json
import sys

import pytest

from run import read_json
from store import read_lines
from tasks import read_tasks
from tiny import STAGE, run

RECORDER = f"""#!{sys.executable}
import json, os, sys
with open(os.environ["RECORD"], "a") as file:
    file.write(json.dumps([os.environ.get("CUDA_VISIBLE_DEVICES"), *sys.argv[1:]]) + "\\n")
sys.exit("pred/call_api.py" in sys.argv and int(os.environ.get("STATUS", 0)))
"""


@pytest.fixture
def launch(tmp_path):
    """launch(words..., expect=0, VARIABLE=value) runs run.sh with a python that only records its command lines:
    (output, [{"script", "gpu", flag: [values]}])."""
    recorder, record = tmp_path / "python", tmp_path / "record"
    recorder.write_text(RECORDER)
    recorder.chmod(0o755)

    def launch(*words, **variables):
        record.write_text("")
        variables = {"PYTHON": recorder, "RECORD": record, "ROOT_DIR": tmp_path / "results"} | variables
        printed = run("bash", STAGE / "run.sh", *words, **variables)
        commands = []
        for line in record.read_text().splitlines():
            gpu, *line = json.loads(line)
            command = {"gpu": gpu, "script": next(word for word in line if word.endswith(".py"))}
            values = []
            for word in line:
                if word.startswith("--"):
                    values = command[word] = []
                else:
                    values.append(word)
            commands.append(command)
        return printed, commands

    return launch


def folder(tmp_path, name: str):
    (tmp_path / name).mkdir(parents=True, exist_ok=True)
    (tmp_path / name / "config.json").write_text("{}")
    return tmp_path / name


def test_a_name_of_config_models_at_the_studys_lengths(launch, tmp_path):
    _, (prepare, call) = launch("llama2-7b-hf", "synthetic")
    assert (prepare["script"], call["script"]) == ("data/prepare.py", "pred/call_api.py")
    assert call["--max_seq_length"] == ["4096", "8192", "16384", "32768", "65536"] == prepare["--max_seq_length"]
    assert call["--task"] == [",".join(read_tasks("synthetic"))] == prepare["--task"]
    assert call["--model_name_or_path"] == ["meta-llama/Llama-2-7b-hf"] == prepare["--tokenizer_path"]
    assert call["--model_name"] == ["llama2-7b-hf"] and call["--server_type"] == ["hf"] and "--batch_size" not in call
    assert prepare["--num_samples"] == ["500"] and "--allow_beyond" in call
    root = f"{tmp_path}/results/{{model}}/synthetic/{{length}}"
    assert prepare["--save_dir"] == [f"{root}/data"] == call["--data_dir"] and call["--save_dir"] == [f"{root}/pred"]


def test_variables_come_before_config_models(launch):
    name = "llama2-7b-hf-slimpajama-yarn-32k"
    _, (_, call) = launch(name, "synthetic", MODEL_DIR="/m: x")
    assert call["--model_name_or_path"] == ["/m: x/llama2-7b-hf-slimpajama_yarn_32768"]
    assert call["--server_type"] == ["hf"] and "--tensor_parallel_size" not in call
    _, (_, call) = launch(name, "synthetic", MODEL_FRAMEWORK="vllm", TENSOR_PARALLEL=2, BATCH_SIZE=4)
    assert call["--server_type"] == ["vllm"] and call["--tensor_parallel_size"] == ["2"] and "--batch_size" not in call
    host = ["--server_host", "http://localhost:1/v1"]
    _, (prepare, call) = launch("served", "synthetic", *host, MODEL_FRAMEWORK="openai", TOKENIZER_PATH="some/where")
    assert call["--model_name_or_path"] == ["served"] and prepare["--tokenizer_path"] == ["some/where"]
    assert call["--server_host"] == ["http://localhost:1/v1"]


def test_several_models_are_shared_among_gpus(launch, tmp_path):
    models = [folder(tmp_path, name) for name in ("a:b c", "b", "c")]
    variables = {"SEQ_LENGTHS": "256 512", "TASKS": "vt,cwe qa_1", "STOP_WORDS": ".,;", "EVAL_BATCH_SIZE": 4}
    _, (prepare, *calls) = launch(*models, "synthetic", "--dtype", "bfloat16", GPUS="3 5", **variables)
    assert prepare["--tokenizer_path"] == [str(model) for model in models]
    shares = {call["gpu"]: call["--model_name"] for call in calls}
    assert shares == {"3": ["a:b c", "c"], "5": ["b"]}
    for call in calls:
        assert call["--task"] == ["vt,cwe,qa_1"] and call["--stop_words"] == [".,;"]
        assert call["--batch_size"] == ["4"] and call["--dtype"] == ["bfloat16"]
    checkpoints = f"{models[1]} {models[2]}"
    printed, calls = launch("synthetic", CHECKPOINTS=checkpoints, NPROC=2, STATUS=1, expect=1)
    assert "--nproc_per_node=2" in printed and f"failed: {models[1]}" in printed
    assert calls[0]["--model_name"] == ["b", "c"]


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "usage: bash run.sh MODEL [MODEL ...] synthetic [flags of pred/call_api.py]"),
        (["synthetic", "--dtype"], "usage: bash run.sh MODEL [MODEL ...] synthetic [flags of pred/call_api.py]"),
        (["a/b", "other"], "no benchmark 'other' in config_tasks.sh"),
    ],
)
def test_bad_input_ends_with_one_line(launch, words, message):
    printed, commands = launch(*words, expect=1)
    assert printed.startswith(f"error: {message}") and printed.count("\n") == 1 and not commands


def test_run_and_eval_as_a_user_on_two_ranks(checkpoint, other, tmp_path, call):
    """Data, answers of two models on two ranks, scores, table; the answers are those of one process."""
    import call_api

    root, tasks = tmp_path / "results", "niah_single_1,vt,qa_1"
    variables = {"ROOT_DIR": root, "SEQ_LENGTHS": "1024", "NUM_SAMPLES": 6, "TASKS": tasks, "PYTHON": sys.executable}
    flags = "--tokens_to_generate 8"
    printed = run("bash", "run.sh", checkpoint, other, "synthetic", NPROC=2, PREPARE_FLAGS=flags, **variables)
    assert printed.count("WARNING: 1024 tokens are beyond the 512") == 2
    pred = root / "other" / "synthetic" / "1024" / "pred"
    assert (pred / "summary.csv").read_text().startswith("0,1,2,3\nTasks,niah_single_1,vt,qa_1\nScore,")
    data = [root / name / "synthetic" / "1024" / "data" / "vt" / "validation.jsonl" for name in ("model", "other")]
    assert data[0].stat().st_ino == data[1].stat().st_ino  # one tokenizer
    printed = run("bash", "eval.sh", **variables)
    assert "stand-in data, not RULER's: qa_1" in printed and (root / "ruler.csv").is_file()
    scores = read_json(pred / "scores.json")
    assert scores["name"] == "other" and scores["length"] == 1024 and scores["mean"]["standin"] == ["qa_1"]
    assert scores["tasks"]["vt"]["n"] == 6 and scores["tasks"]["vt"]["fill"] > 0.5
    assert read_json(pred / "runs" / "vt.json")["processes"] == 2

    words = ["--data_dir", pred.parent / "data", "--save_dir", tmp_path / "one", "--task", tasks, "--allow_beyond"]
    assert call(call_api, *words, "--model_name_or_path", other)[1] is None
    for task in tasks.split(","):
        two, one = (read_lines(folder / f"{task}.jsonl")[0] for folder in (pred, tmp_path / "one"))
        assert [(row["index"], row["pred"]) for row in two] == [(row["index"], row["pred"]) for row in one]
        assert len(one) == 6 and not list(pred.rglob("*.rank*"))
