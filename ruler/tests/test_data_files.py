"""data/prepare.py: the files it writes, interruptions, many processes, what it refuses."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import download
import files
import maker
import prepare
import sources
import standins
import tokens

STAGE = Path(prepare.__file__).resolve().parents[1]
THREE = ["niah_multikey_3", "vt", "qa_1"]


@pytest.fixture
def run(monkeypatch, tokenizer_folder, capsys):
    """Runs prepare.py in this process; returns what it printed. Flags given again win."""

    def run(save_dir, *flags, length=2048, samples=8, workers=1):
        defaults = ["--tokenizer_path", tokenizer_folder, "--max_seq_length", length, "--num_samples", samples]
        words = ["prepare.py", "--save_dir", save_dir, *defaults, "--workers", workers, "--task", *THREE, *flags]
        monkeypatch.setattr(sys, "argv", [str(word) for word in words])
        prepare.main()
        return capsys.readouterr().out

    return run


def rows(folder, name="validation"):
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def contents(folder):
    return {path.parent.name: path.read_bytes() for path in sorted(folder.rglob("*.jsonl"))}


def test_rows_and_run_json(run, tmp_path, tokenizer_folder):
    printed = run(tmp_path)
    assert "no --squad: qa_1 made of a stand-in" in printed and "vt at 2048: 8 samples, mean fill 0.9" in printed
    for task, new in zip(THREE, (128, 30, 32), strict=True):
        made, record = rows(tmp_path / task), json.loads((tmp_path / task / "run.json").read_text())
        assert [row["index"] for row in made] == list(range(8))
        assert list(made[0]) == [
            *("index", "input", "outputs", "length", "length_w_model_temp", "answer_prefix"),
            *("token_position_answer", "tokens_to_generate", "fill"),
        ]
        count = maker.Tokens((tokenizer_folder / "tokenizer.json").read_text()).count
        for row in made:
            assert row["length"] == count(row["input"]) + new <= 2048 and row["tokens_to_generate"] == new
            assert row["input"].endswith(row["answer_prefix"])
        assert record["mean_fill"] == pytest.approx(sum(row["length"] for row in made) / 8 / 2048, abs=1e-5)
        assert record["source"] == ("standin" if task == "qa_1" else "official") and record["complete"]
        assert record["sha256"] == files.hashlib.sha256((tmp_path / task / "validation.jsonl").read_bytes()).hexdigest()
        assert sorted(path.name for path in (tmp_path / task).iterdir()) == ["run.json", "validation.jsonl"]
    assert "all files are there" in run(tmp_path)


def test_same_bytes_for_any_number_of_processes_and_chunks(run, tmp_path):
    run(tmp_path / "one", samples=160)
    run(tmp_path / "two", samples=160, workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    for chunk in (0, 1):
        run(tmp_path / "chunks", "--chunk_idx", chunk, "--chunk_amount", 2, "--task", "vt", samples=9)
    parts = [rows(tmp_path / "chunks" / "vt", f"validation-{chunk}") for chunk in (0, 1)]
    assert parts[0] + parts[1] == rows(tmp_path / "one" / "vt")[:9] and len(parts[0]) == 4
    run(tmp_path / "seed", "--random_seed", 43, "--task", "vt")
    assert rows(tmp_path / "seed" / "vt")[0]["outputs"] != rows(tmp_path / "one" / "vt")[0]["outputs"]


def test_more_samples_go_on_from_those_that_are_there(run, tmp_path):
    run(tmp_path / "grown", samples=5)
    before = contents(tmp_path / "grown")
    assert "left as it is" in run(tmp_path / "grown", samples=3) and contents(tmp_path / "grown") == before
    run(tmp_path / "grown", samples=8)
    run(tmp_path / "new", samples=8)
    assert contents(tmp_path / "grown") == contents(tmp_path / "new")


def test_killed_it_goes_on_with_the_same_bytes(run, tmp_path, tokenizer_folder):
    """As a user runs it, killed twice: soon, and by cutting a line as a kill may leave it."""
    flags = ["--save_dir", tmp_path / "killed", "--tokenizer_path", tokenizer_folder, "--task", "niah_multikey_3,vt"]
    flags += ["--max_seq_length", 2048, "--num_samples", 600, "--workers", 2]
    command = [sys.executable, "data/prepare.py", *map(str, flags)]
    started = subprocess.Popen(command, cwd=STAGE, stdout=subprocess.DEVNULL, start_new_session=True)
    partial = tmp_path / "killed" / "niah_multikey_3" / "validation.jsonl.partial"
    for _ in range(1500):
        if started.poll() is not None or (partial.exists() and partial.stat().st_size):
            break
        time.sleep(0.02)
    assert started.poll() is None, "it was done, or had failed, before it could be killed"
    started.kill()  # the parent alone; its workers end by themselves
    started.wait()
    assert 0 < partial.read_bytes().count(b"\n") < 600
    for _ in range(300):
        try:
            os.killpg(started.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.02)
    else:
        os.killpg(started.pid, signal.SIGKILL)
        raise AssertionError("workers outlive their parent")
    with partial.open("r+b") as file:
        file.truncate(partial.stat().st_size - 100)
    done = subprocess.run(command, cwd=STAGE, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    run(tmp_path / "whole", "--task", "niah_multikey_3", "vt", samples=600)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    records = [json.loads((tmp_path / name / "vt" / "run.json").read_text()) for name in ("killed", "whole")]
    assert records[0]["mean_fill"] == records[1]["mean_fill"] and records[0]["sha256"] == records[1]["sha256"]


def test_killed_between_its_last_row_and_its_end(run, tmp_path):
    """The two places in which a kill while more samples are added leaves the old file beside the new record."""
    for kept in (True, False):
        folder = tmp_path / str(kept) / "vt"
        run(folder.parent, "--task", "vt", samples=8)
        eight = (folder / "validation.jsonl").read_bytes()
        record = json.loads((folder / "run.json").read_text())
        (folder / "run.json.partial").write_text(json.dumps(record))
        if kept:  # the new file had not taken the old one's place
            (folder / "validation.jsonl.partial").write_bytes(eight)
            (folder / "validation.jsonl").write_bytes(b"".join(eight.splitlines(True)[:3]))
        run(folder.parent, "--task", "vt", samples=8)
        assert (folder / "validation.jsonl").read_bytes() == eight
        assert sorted(path.name for path in folder.iterdir()) == ["run.json", "validation.jsonl"]
        (folder / "run.json.partial").write_text(json.dumps({**record, "seed": 7}))
        with pytest.raises(SystemExit, match="other settings: seed was 7, now it is 42"):
            run(folder.parent, "--task", "vt", samples=8)


def test_several_lengths_in_one_start(run, tmp_path):
    run(tmp_path / "{length}" / "data", "--max_seq_length", 1024, 2048, "--task", "vt")
    one, two = (rows(tmp_path / length / "data" / "vt") for length in ("1024", "2048"))
    assert one[3]["outputs"] == two[3]["outputs"] and one[3]["length"] <= 1024 < two[3]["length"] <= 2048


def test_shared_data_are_made_once(run, tmp_path, tokenizer_folder, monkeypatch):
    shared = ["--shared_dir", tmp_path / "shared"]
    run(tmp_path / "one", *shared)
    copy = tmp_path / "checkpoint"
    copy.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (copy / name).write_bytes((tokenizer_folder / name).read_bytes())
    monkeypatch.setattr(tokens, "load", None)  # not needed any more
    assert "all files are there" in run(tmp_path / "two", *shared, "--tokenizer_path", copy)
    for task in THREE:
        first, second = (tmp_path / name / task / "validation.jsonl" for name in ("one", "two"))
        assert first.stat().st_ino == second.stat().st_ino
    monkeypatch.undo()
    assert len(list((tmp_path / "shared").rglob("validation.jsonl"))) == 3


def test_shared_data_are_not_touched_by_more_samples(run, tmp_path):
    shared = ["--shared_dir", tmp_path / "shared", "--task", "vt"]
    run(tmp_path / "one", *shared, samples=3)
    before = contents(tmp_path / "one")
    run(tmp_path / "two", *shared, samples=3)
    run(tmp_path / "two", *shared, samples=5)
    assert contents(tmp_path / "one") == before and len(rows(tmp_path / "two" / "vt")) == 5


def test_tokens_to_generate_newlines_and_nemo_skills(run, tmp_path):
    run(tmp_path / "few", "--tokens_to_generate", 8, "--task", "niah_single_2")
    assert rows(tmp_path / "few" / "niah_single_2")[0]["tokens_to_generate"] == 8
    run(tmp_path / "flat", "--remove_newline_tab")
    for row in rows(tmp_path / "flat" / "vt"):
        assert "\n" not in row["input"] and row["length"] <= 2048 and row["input"].endswith(row["answer_prefix"])
    run(tmp_path / "ns", "--prepare_for_ns", "--task", "vt")
    row = rows(tmp_path / "ns" / "vt")[0]
    assert row["input"].endswith("in the text above.") and row["answer_prefix"].startswith(" Answer:")


def test_texts_of_the_user(run, tmp_path):
    squad, hotpot, essays = tmp_path / "squad.json", tmp_path / "hotpot.json", tmp_path / "essays"
    data = standins.squad(articles=30)
    data["data"][0]["paragraphs"][0]["qas"][0]["is_impossible"] = True
    squad.write_text(json.dumps(data))
    hotpot.write_text(json.dumps(standins.hotpotqa(60)))
    essays.mkdir()
    (essays / "b.txt").write_text("Beta says\n\n so. " * 40)
    (essays / "a.txt").write_text("Alpha comes first. " * 3)
    flags = ["--squad", squad, "--hotpotqa", hotpot, "--essays", essays, "--task", "qa_1", "qa_2", "niah_single_2"]
    assert "stand-in" not in run(tmp_path / "out", *flags)
    for task in ("qa_1", "qa_2", "niah_single_2"):
        record = json.loads((tmp_path / "out" / task / "run.json").read_text())
        assert record["source"] == "user" and len(record["data"]["sha256"]) == 64
    first = rows(tmp_path / "out" / "qa_1")[0]
    answerable = data["data"][0]["paragraphs"][0]["qas"][1]
    assert answerable["question"] in first["input"] and first["outputs"] == [answerable["answers"][0]["text"]]
    given = json.loads(hotpot.read_text())[0]
    for title, sentences in given["context"]:  # all ten of them
        assert f"{title}\n{''.join(sentences)}" in rows(tmp_path / "out" / "qa_2")[0]["input"]
    assert "afterwards.\nAlpha comes first. Alpha" in rows(tmp_path / "out" / "niah_single_2")[7]["input"]


def test_questions_whose_documents_do_not_fit_are_passed_over(run, tmp_path):
    data = standins.hotpotqa(40)
    for title in data[0]["supporting_facts"]:
        next(context for context in data[0]["context"] if context[0] == title[0])[1].append(" Long." * 900)
    (tmp_path / "hotpot.json").write_text(json.dumps(data))
    run(tmp_path / "out", "--task", "qa_2", "--hotpotqa", tmp_path / "hotpot.json", length=1024)
    assert data[1]["question"] in rows(tmp_path / "out" / "qa_2")[0]["input"]


def test_a_restart_makes_every_count_exact(run, tmp_path, tokenizer_of):
    printed = run(tmp_path, "--tokenizer_path", tokenizer_of("lines"), "--task", "qa_1")
    assert "costs do not add up" in printed
    assert json.loads((tmp_path / "qa_1" / "run.json").read_text())["whole"]
    count = maker.Tokens((tokenizer_of("lines") / "tokenizer.json").read_text()).count
    assert all(row["length"] == count(row["input"]) + 32 <= 2048 for row in rows(tmp_path / "qa_1"))


REFUSED = {
    "unknown task nope; known: niah_single_1, ": ["--task", "nope"],
    "no benchmark other": ["--benchmark", "other"],
    "--squad: /no/such/file does not exist": ["--squad", "/no/such/file"],
    "is not JSON": ["--squad", __file__],
    "has no tokenizer": ["--tokenizer_path", str(STAGE / "data")],
    "vt at 256; vt cannot hold its example": ["--max_seq_length", "256", "--task", "vt", "fwe"],
    "What fits 256: fwe": ["--max_seq_length", "256", "--task", "vt", "fwe"],
    "--tokenizer_type nemo: only hf": ["--tokenizer_type", "nemo"],
    "--model_template_type meta-chat: base or chat": ["--model_template_type", "meta-chat"],
    "several lengths need {length}": ["--max_seq_length", "1024", "2048"],
    "1920 questions are in the file, 1921 are wanted": ["--task", "qa_1", "--num_samples", "1921"],
    "--chunk_idx must be from 0 to 1": ["--chunk_idx", "2", "--chunk_amount", "2"],
    "must be at least 1": ["--workers", "0"],
}


@pytest.mark.parametrize("line", REFUSED)
def test_what_cannot_be_done_is_refused_in_one_line(run, tmp_path, line):
    with pytest.raises(SystemExit) as refusal:
        run(tmp_path / "out", *REFUSED[line])
    said = str(refusal.value)
    assert said.startswith("error: ") and "\n" not in said
    assert line in said
    assert not (tmp_path / "out").exists()


def test_other_settings_do_not_replace_data(run, tmp_path):
    run(tmp_path, "--task", "vt")
    before = contents(tmp_path)
    with pytest.raises(SystemExit, match="made with other settings: seed was 42, now it is 43"):
        run(tmp_path, "--task", "vt", "--random_seed", 43)
    assert contents(tmp_path) == before
    (tmp_path / "vt" / "run.json").unlink()
    with pytest.raises(SystemExit, match="was not made by this script"):
        run(tmp_path, "--task", "vt")


def test_a_folder_that_cannot_be_written(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match="^error: .*Not a directory"):
        run(tmp_path / "file" / "out")


def test_official_files_are_known_by_their_digest_and_downloaded_ones_found(tmp_path, monkeypatch):
    path = tmp_path / "dev.json"
    path.write_text(json.dumps(standins.squad(articles=2)))
    for module in (sources, download):
        monkeypatch.setattr(module, "FOLDER", tmp_path / "json")
    monkeypatch.setitem(download.URLS, "squad", path.as_uri())
    with pytest.raises(ValueError, match="is not the official file any more"):
        download.fetch("squad")
    assert not any((tmp_path / "json").iterdir())
    assert sources.read_questions("squad", None)[1]["source"] == "standin"
    monkeypatch.setitem(sources.OFFICIAL, files.hashlib.sha256(path.read_bytes()).hexdigest(), "SQuAD")
    download.fetch("squad")
    assert sources.read_questions("squad", None)[1]["source"] == "official"
