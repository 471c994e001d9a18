"""From result files to results.csv and to rows."""

import json
import math
import shutil

import pandas as pd
import pytest

import costs
import making
import tables
from collect import collect
from rows import make_frame, make_rows, target_length


def test_results_csv_has_every_number_of_every_stage(study, tmp_path):
    results = collect([study])
    assert results.warnings == [] and len(results.models) == len(making.MODELS)
    tables.write_results(results, tmp_path / "results.csv")
    table = pd.read_csv(tmp_path / "results.csv", keep_default_na=False, dtype=str).query("model == 'm_ntk_512'")
    assert set(table.training_seed) == {"42"} and set(table.source) == {"standin"}

    def find(query):
        [line] = table.query(query).itertuples()
        return line

    assert find("benchmark == 'perplexity' and length == '512' and part == ''").value == "28.0"
    assert find("benchmark == 'perplexity' and length == '512' and part == 'last 64'").low == str(28 * 1.1 * 0.95)
    assert find("part == 'positions 256-511' and length == '512'").n == "40"
    needle = table.query("benchmark == 'needle' and length == '1024' and metric == 'score'").set_index("part").value
    depths = needle.drop("").astype(float)
    assert len(depths) == 3 and float(needle[""]) == pytest.approx(depths.mean())
    assert find("task == 'standin_trec' and length == '10'").n == "20"
    assert find("part == 'category' and task == 'standin_code'").n == "20"
    assert find("task == 'vt' and length == '1024'").file.endswith("synthetic/1024/pred/scores.json")


def test_same_results_in_another_place_and_order_give_the_same_bytes(study, tmp_path):
    copy = making.study(tmp_path / "copy", models=making.MODELS[::-1])
    tables.write_results(collect([study]), tmp_path / "a.csv")
    tables.write_results(collect([copy]), tmp_path / "b.csv")
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    assert str(tmp_path).encode() not in (tmp_path / "a.csv").read_bytes()


def test_files_that_are_not_results_are_reported_and_left_out(study, tmp_path):
    root = shutil.copytree(study, tmp_path / "study")
    n_scores = len(collect([root]).scores)
    (root / "cut.json").write_text('{"val_perplexity": 1.0, "seq_')
    (root / "list.json").write_text("[1]")  # of something else: ignored, as the next
    (root / "foreign.json").write_text('{"score": 1}')
    making.write(root / "a" / "scores.json", {"benchmark": "other"})
    making.write(root / "b" / "x_results.json", {"context_length": 5})
    making.sets(root, making.info("late", "pi", 5), "trec", {"trec_5shots": {"n": 1}})
    twice = making.entry([1.0, 0.0], "ids") | {"ids": ["a", "a"]}
    making.sets(root, making.info("twice", "pi", 5), "longbench", {"qasper": twice})
    shutil.copytree(root / "needle", root / "needle" / "old2")  # answers of other settings
    results = collect([root])
    assert len(results.scores) == n_scores
    names = ("cut.json", "a/scores.json", "x_results.json", "late/scores.json", "twice/scores.json")
    assert len(results.warnings) == len(names)
    for name in names:
        [line] = [line for line in results.warnings if name in line]
        assert line.startswith("left out: ") and "\n" not in line


ODD = {  # fields of results of needle and perplexity, and values that they may not have
    "model": (5,), "method": (["pi"],), "exact_attention": ("yes",), "trained_length": ("512", -1, 10**30),
    "trained_tokens": (math.nan,), "base_model": ({},), "versions": ("3.11",), "drawn_text": (1,),
    "score": (math.nan, 1.5, "1"), "depth_percent": (None, -5, "50"), "template": (None,),
    "trials": ([{"trial": 0, "score": None}], [{"trial": [], "score": 1}], [{"trial": 0, "score": 9}], "x"),
    "val_perplexity": (math.nan, math.inf, 0, "20"), "perplexity_interval_95": ([1.0], [math.nan, 2.0]),
    "seq_len": (None, "512", 0), "n_windows": (0,), "loss_by_position": ([{"from": 1, "to": "x", "perplexity": 2.0}],),
    "data": ([], {"path": "a/b", "source": None}), "peak_memory_bytes": (1.5,),
    "document_losses": ({"sum": ["a"], "targets": [9]}, {"sum": [9.0], "targets": []}, {"sum": [-9.0], "targets": [9]}),
}  # fmt: skip


def test_a_file_with_a_field_of_another_type_or_range_is_named_and_left_out(tmp_path):
    info, root = making.info("m", "pi", 5), tmp_path / "root"
    making.perplexity(root, info, 512, 20.0)
    needle = json.loads(making.needle(tmp_path, info, 512, 50, [1.0]).read_text())
    perplexity = json.loads(making.perplexity(tmp_path, info, 512, 20.0).read_text())
    odd = []
    for field, values in ODD.items():
        for i, value in enumerate(values):
            name, result = (f"{field}{i}_results", needle) if field in needle else (f"{field}{i}", perplexity)
            odd.append(making.write(root / f"{name}.json", result | {field: value, "name": name}))
    odd += [root / f"{name}.json" for name in ("deep", "loop", "binary", "folder")]
    odd[-4].write_text("[" * 100_000)
    odd[-3].symlink_to(odd[-3])
    odd[-2].write_bytes(b"\xe4\x00")
    odd[-1].mkdir()
    results = collect([root])
    assert {score.file for score in results.scores} == {"results/heldout/m_512_heldout.json"}
    assert sorted(line.split()[2] for line in results.warnings) == sorted(map(str, odd))


def test_repeated_results_and_two_models_of_one_name_are_reported(tmp_path):
    info = making.info("m", "pi", 5, settings={"checkpoint": "first"})
    for run, changes in (("a", {}), ("b", {"trained_length": 256}), ("c", {"settings": {"checkpoint": "other"}})):
        making.perplexity(tmp_path / run, info | {"model": f"/{run}/m", **changes}, 512, 20.0)
    making.perplexity(tmp_path / "d", info, 512, 40.0)
    results = collect([tmp_path / run for run in "abcd"])
    assert [row.models for row in make_rows(results)] == [["b/m"], ["c/m"], ["m"]]
    assert results.warnings[0] == "m: trained_length is 512 in one result and 256 in another"
    assert "m: checkpoint is first" in results.warnings[1] and "d/results" in results.warnings[2]


@pytest.mark.parametrize("odd", ({"peak_memory_gib": "x"}, {"tokens_per_second": 0}, [], "[" * 9999))
def test_odd_metrics_of_a_training_are_named(study, tmp_path, odd):
    results = collect([study / "needle"])
    line = {"tokens_seen": 400, "tokens_per_second": 250.0, "peak_memory_gib": 0.5}
    text = odd + "}" if isinstance(odd, str) else json.dumps(line | odd if odd else {"list": [odd]})
    for folder in ("m_pi_512", "copy/m_pi_512"):  # the second is not added to the costs of the first
        making.write(tmp_path / folder / "config.json", {"context_extension": {}})
        (tmp_path / folder / "metrics.jsonl").write_text(text)
    assert costs.read_training(tmp_path, results) == ([], {"m_pi_512": {}})
    assert len(results.warnings) == 1 and "no costs" in results.warnings[0]


def test_results_on_other_data_or_of_another_base_share_no_row(tmp_path):
    for seed, source in ((1, "official"), (2, "standin"), (3, "official")):
        base = {1: "a/llama", 2: "b/llama", 3: "a/mistral"}[seed]
        info = making.info(f"m{seed}", "pi", 5, training_seed=seed, base_model=base)
        making.ruler(tmp_path, info, 512, {"vt": making.entry([seed / 4], "indices", source)})
        making.needle(tmp_path, info, 512, 50, [seed / 4], data={"source": source})
    results = collect([tmp_path])
    rows = make_rows(results)
    assert [row.models for row in rows] == [["m1", "m2"], ["m3"]]
    frame = make_frame(rows, results).query("metric == 'score'")
    assert set(frame.source) == {"official"} and sorted(frame.query("benchmark == 'ruler'").value) == [25.0, 75.0]
    assert any("vt: results on standin data" in line for line in results.warnings)


def test_rows_have_groups_and_labels_that_tell_them_apart(tmp_path):
    models = [
        ("b", "base", None, {}),
        ("n32", "ntk", 10, {"trained_length": 1024}),
        ("n64", "ntk", 10, {"trained_length": 2048}),
        ("n64_more", "ntk", 20, {"trained_length": 2048}),
        ("p1", "pi", 10, {"trained_length": 1024, "training_seed": 1}),
        ("p2", "pi", 10, {"trained_length": 1024, "training_seed": 2}),
        ("lm", "lm_infinite", 0, {}),
        ("b2", "base", None, {}),
        ("mine", "my_method", 10, {"trained_length": 1024}),
        ("other", "their_method", 10, {"trained_length": 2048, "exact_attention": None}),
    ]
    for name, method, tokens, changes in models:
        making.perplexity(tmp_path, making.info(name, method, tokens, **changes), 512, 20.0)
    rows = make_rows(collect([tmp_path]))
    assert [row.label for row in rows[:4]] == ["base, b", "base, b2", "my_method", "ntk 1k"]
    assert [row.label for row in rows[4:7]] == ["ntk 2k, n64", "ntk 2k, n64_more", "pi"]
    assert [row.group for row in rows] == ["base"] * 2 + ["exact attention, fine-tuned"] * 5 + [
        "approximate attention, frozen",
        "attention unknown, fine-tuned",
    ]
    assert rows[6].models == ["p1", "p2"]
    assert target_length(rows[:-1]) == 1024  # the commonest
    assert target_length(rows[3:5]) == 2048  # both once: the longer
    assert target_length(rows[:1]) == 128  # the base's own
