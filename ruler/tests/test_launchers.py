"""run.sh and eval.sh as a user runs them."""

import json
import os
import re
import subprocess
import sys

import pytest

from results import read_json
from tiny import STAGE, TASKS, save_checkpoint

SCRIPTS = ("run.sh", "eval.sh", "config_models.sh", "config_tasks.sh")
RECORDER = f"""#!{sys.executable}
import json, os, sys
with open(os.environ["RECORD"], "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
sys.exit(int(os.environ.get("STATUS", 0)) if "pred/call_api.py" in sys.argv else 0)
"""


@pytest.fixture
def launch(tmp_path):
    """launch("run.sh", words..., VARIABLE=value) with a python that only notes its command lines: (status, stdout,
    stderr, [command line])."""
    recorder, record = tmp_path / "python", tmp_path / "record"
    recorder.write_text(RECORDER)
    recorder.chmod(0o755)

    def call(*words, **variables):
        record.write_text("")
        variables = {"PYTHON": str(recorder), "RECORD": str(record), "ROOT_DIR": str(tmp_path / "results")} | variables
        done = subprocess.run(
            ["bash", STAGE / words[0], *map(str, words[1:])], env=os.environ | variables, capture_output=True, text=True
        )
        return done.returncode, done.stdout, done.stderr, [json.loads(line) for line in record.read_text().splitlines()]

    return call


def flags(command: list[str]) -> dict[str, list[str]]:
    found = {}
    for word in command:
        if word.startswith("--"):
            found[word] = last = []
        elif found:
            last.append(word)
    return found


def test_defaults_are_the_studys(launch):
    status, out, _, (prepare, call, evaluate) = launch("run.sh", "llama2-7b-hf", "synthetic")
    assert status == 0 and out.count("\n+ ") == 2
    lengths = ["4096", "8192", "16384", "32768", "65536"]
    assert prepare[0] == "data/prepare.py" and flags(prepare)["--max_seq_length"] == lengths
    assert flags(prepare)["--num_samples"] == ["500"] and flags(prepare)["--model_template_type"] == ["base"]
    assert call[0] == "pred/call_api.py" and flags(call)["--task"] == [",".join(TASKS)] == flags(prepare)["--task"]
    assert flags(call)["--model_name_or_path"] == ["meta-llama/Llama-2-7b-hf"]
    assert flags(call)["--server_type"] == ["hf"]
    assert flags(call)["--temperature"] == ["0.0"] and "--allow_beyond" in call
    root = os.path.dirname(flags(prepare)["--save_dir"][0].replace("/{length}", ""))
    assert root.endswith("/results/llama2-7b-hf/synthetic")
    assert flags(call)["--data_dir"] == [f"{root}/{length}/data" for length in lengths]
    assert flags(call)["--save_dir"] == flags(evaluate)["--data_dir"] == [f"{root}/{length}/pred" for length in lengths]


def test_a_bare_checkpoint_with_a_colon_and_spaces_in_its_path(launch, tmp_path):
    folder = tmp_path / "my: models" / "a:b c"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    variables = {"SEQ_LENGTHS": "256 512", "TASKS": "vt,cwe qa_1", "MODEL_FRAMEWORK": "vllm", "GPUS": "2"}
    more = {"PREPARE_FLAGS": "--profile lceg", "REMOVE_NEWLINE_TAB": "true", "STOP_WORDS": ".,;", "BATCH_SIZE": "4"}
    extra = ["--dtype", "bfloat16"]
    status, _, _, (prepare, call, evaluate) = launch("run.sh", folder, "synthetic", *extra, **variables, **more)
    assert status == 0
    assert flags(call)["--model_name_or_path"] == [str(folder)] == flags(prepare)["--tokenizer_path"]
    assert flags(call)["--model_name"] == ["a:b c"] and flags(call)["--tensor_parallel_size"] == ["2"]
    assert [path.split("/")[-4:] for path in flags(call)["--save_dir"]] == [
        ["a:b c", "synthetic", "256", "pred"],
        ["a:b c", "synthetic", "512", "pred"],
    ]
    assert flags(call)["--task"] == ["vt,cwe,qa_1"] and flags(call)["--stop_words"] == [".,;"]
    assert flags(call)["--batch_size"] == ["4"] and flags(call)["--dtype"] == ["bfloat16"]
    assert flags(prepare)["--profile"] == ["lceg"] and "--remove_newline_tab" in prepare
    status, _, _, commands = launch("run.sh", folder, "synthetic", NPROC="2", STATUS="3")
    assert status == 3 and commands[1][:4] == ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    assert len(commands) == 2  # nothing was answered: nothing to score


def test_entries_of_config_models(launch, tmp_path):
    _, _, _, (prepare, call, _) = launch("run.sh", "llama2-7b-hf-slimpajama-yarn-32k", "synthetic", MODEL_DIR="/m: x")
    assert flags(call)["--model_name_or_path"] == ["/m: x/llama2-7b-hf-slimpajama_yarn_32768"]
    assert flags(call)["--server_type"] == ["vllm"]
    variables = {"MODEL_FRAMEWORK": "openai", "TOKENIZER_PATH": "some/where"}
    host = ["--server_host", "http://localhost:1/v1"]
    status, _, _, (prepare, call, _) = launch("run.sh", "served", "synthetic", *host, **variables)
    assert flags(call)["--model_name_or_path"] == ["served"] and flags(prepare)["--tokenizer_path"] == ["some/where"]
    assert flags(call)["--server_host"] == ["http://localhost:1/v1"]


@pytest.mark.parametrize(
    "words, variables, line",
    [
        ([], {}, "usage: bash run.sh MODEL_NAME synthetic [flags of pred/call_api.py]"),
        (["gpt"], {}, "usage: bash run.sh MODEL_NAME synthetic [flags of pred/call_api.py]"),
        (["gpt", "synthetic"], {}, "no model gpt; config_models.sh knows llama2-7b-hf llama2-7b-hf-slimpajama-pi-32k "),
        (["/no/where", "synthetic"], {}, "no checkpoint in /no/where (no config.json)"),
        (["a/b", "synthetic"], {"MODEL_FRAMEWORK": "trtllm"}, "MODEL_FRAMEWORK trtllm is not supported: hf, vllm, or "),
        (["a/b", "other"], {}, "no benchmark 'other' in config_tasks.sh; RULER's is synthetic"),
        (["a/b", "a;b"], {}, "no benchmark 'a;b' in config_tasks.sh; RULER's is synthetic"),
        (["m", "synthetic"], {"MODEL_FRAMEWORK": "openai"}, "MODEL_FRAMEWORK=openai needs TOKENIZER_PATH"),
    ],
)
def test_bad_input_gets_one_line(launch, words, variables, line):
    status, out, error, commands = launch("run.sh", *words, **variables)
    assert status == 1 and error.startswith(f"error: {line}") and error.count("\n") == 1 and not commands


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_scripts_work_with_an_old_bash(script):
    """macOS ships bash 3.2: no mapfile, no associative arrays, no ${x,,}."""
    text = (STAGE / script).read_text()
    assert not re.search(r"\bmapfile\b|\breadarray\b|declare -[An]|local -[An]|\$\{\w+(,,|\^\^)\}|&>>|\|&", text)
    assert subprocess.run(["bash", "-n", STAGE / script]).returncode == 0


def test_eval_says_what_there_is_not(launch, tmp_path):
    status, _, error, commands = launch("eval.sh")
    assert status == 1 and not commands
    assert error == f"error: no predictions of any model in {tmp_path / 'results'}; run.sh makes them\n"


def user(*words, **variables):
    variables = {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"} | variables
    command, variables = ["bash", *map(str, words)], os.environ | variables
    done = subprocess.run(command, cwd=STAGE, env=variables, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def test_run_and_eval_as_a_user_on_two_processes(tmp_path, monkeypatch, capsys):
    """Data, answers on two ranks, scores, table; the answers are those of one process."""
    import call_api

    model = save_checkpoint(tmp_path / "tiny")
    root, tasks = tmp_path / "results", "niah_single_1,vt,qa_1"
    small = "--tokens_to_generate 8"
    variables = {"ROOT_DIR": str(root), "SEQ_LENGTHS": "1024", "NUM_SAMPLES": "6", "TASKS": tasks, "NPROC": "2"}
    status, out, error = user("run.sh", model, "synthetic", **variables, PREPARE_FLAGS=small)
    assert status == 0, error
    pred = root / "tiny" / "synthetic" / "1024" / "pred"
    assert (pred / "summary.csv").read_text().startswith("0,1,2,3\nTasks,niah_single_1,vt,qa_1\nScore,")
    assert "WARNING: 1024 tokens are beyond the 512" in out
    status, out, error = user("eval.sh", **variables)
    assert status == 0, error
    assert "tiny    base" in out and "* standin data" in out and (root / "ruler.csv").is_file()
    scores = read_json(pred / "scores.json")
    assert scores["name"] == "tiny" and scores["length"] == 1024 and scores["mean"]["standin"] == ["qa_1"]
    assert scores["tasks"]["vt"]["n"] == 6 and scores["tasks"]["vt"]["fill"] > 0.5
    assert read_json(pred / "runs" / "vt.json")["processes"] == 2
    del variables["TASKS"]
    status, out, error = user("eval.sh", **variables)
    assert status == 1 and error.startswith("missing: tiny at 1024: niah_single_2 ")

    words = ["--data_dir", pred.parent / "data", "--save_dir", tmp_path / "one", "--task", tasks, "--allow_beyond"]
    monkeypatch.setattr(sys, "argv", ["call_api.py", *map(str, words), "--model_name_or_path", str(model)])
    call_api.main()
    for task in tasks.split(","):
        assert (pred / f"{task}.jsonl").read_bytes() == (tmp_path / "one" / f"{task}.jsonl").read_bytes()
        assert not list(pred.glob("*.rank*"))
