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


def test_results_csv_has_every_number_and_the_same_bytes_in_another_place_and_order(study, tmp_path):
    results = collect([study])
    assert results.warnings == [] and len(results.models) == len(making.MODELS)
    tables.write_results(results, tmp_path / "results.csv")
    copy = making.study(tmp_path / "copy", models=making.MODELS[::-1])
    tables.write_results(collect([copy]), tmp_path / "copy.csv")
    assert (tmp_path / "results.csv").read_bytes() == (tmp_path / "copy.csv").read_bytes()
    assert str(tmp_path) not in (tmp_path / "copy.csv").read_text()
    table = pd.read_csv(tmp_path / "results.csv", keep_default_na=False, dtype=str).query("model == 'm_ntk_512'")
    assert set(table.training_seed) == {"42"} and set(table.source) == {"standin"}
    lines = table.set_index(["task", "metric", "length", "part"]).sort_index()
    assert lines.value["heldout", "perplexity", "512", ""] == "28.0"
    assert lines.low["heldout", "perplexity", "512", "last 64"] == str(28 * 1.1 * 0.95)
    needle = lines.value["passkey", "score", "1024"].astype(float)
    assert len(needle) == 4 and needle[""] == pytest.approx(needle.drop("").mean())
    assert lines.n["standin_trec", "score", "10", ""] == "20"
    assert lines.file["vt", "score", "1024", ""].endswith("synthetic/1024/pred/scores.json")


def test_files_that_are_not_results_are_reported_and_left_out(study, tmp_path):
    root = shutil.copytree(study, tmp_path / "study")
    n_scores = len(collect([root]).scores)
    (root / "cut.json").write_text('{"val_perplexity": 1.0, "seq_')
    (root / "list.json").write_text("[1]")  # of something else: ignored, as the next
    (root / "foreign.json").write_text('{"score": 1}')
    (root / "lceg.json").write_text('{"val_perplexity": 5.8}')  # without an interval, as LCEG's own code writes it
    making.write(root / "a" / "scores.json", {"benchmark": "other"})
    making.write(root / "b" / "x_results.json", {"context_length": 5})
    making.perplexity(root / "results", making.info("nan", "pi", 5), 512, math.nan, losses=[1.0])
    making.sets(root, making.info("late", "pi", 5), "trec", {"trec_5shots": {"n": 1}})
    shutil.copytree(root / "needle", root / "needle" / "old2")  # answers of other settings
    results = collect([root])
    assert len(results.scores) == n_scores
    for line, name in zip(results.warnings, ("a", "b", "cut.json", "lceg.json", "results", "trec"), strict=True):
        assert line.startswith(f"left out: {root / name}") and "\n" not in line


ODD = [
    {"model": 5},
    {"method": ["pi"]},
    {"exact_attention": "yes"},
    {"trained_length": "512"},
    {"trained_length": -1},
    {"training_seed": [42]},
    {"base_model": {}},
    {"versions": "3.11"},
    {"command": ["x"]},
    {"engine": 5},
    {"seconds": "x"},
    {"peak_memory_bytes": 10**400},
    {"data": {"path": "a/b", "source": ["x"]}},
    {"data": {"path": "a/b", "source": "user", "sha256": ["x"]}},
    {"seq_len": "512"},
    {"n_windows": None},
    {"val_perplexity": 0},
    {"val_perplexity": -1.0},
    {"document_losses": {"sum": [9.0], "targets": []}},
    {"document_losses": {"sum": [9.0], "targets": ["a"]}},
]
ODD_CELLS = [
    {"score": 1.5},
    {"score_interval_95": [-0.5, 1]},
    {"template": ["book"]},
    {"depth_percent": -5},
    {"drawn_text": "no"},
    {"trials": [{"trial": 0, "score": 9, "exact": True}]},
]


@pytest.mark.parametrize("odd", [*ODD, *ODD_CELLS, None])
def test_a_file_with_an_odd_value_is_named_and_left_out(tmp_path, odd):
    making.perplexity(tmp_path, making.info("good", "pi", 5), 512, 20.0)
    n_scores = len(collect([tmp_path]).scores)
    other = making.info("m", "pi", 5)
    if odd is None:
        (tmp_path / "deep.json").write_text("[" * 100_000)
    elif odd in ODD_CELLS:
        making.needle(tmp_path, other, 512, 50, [1.0, 0.0], **odd)
    else:
        making.perplexity(tmp_path, other, 512, 20.0, **odd)
    results = collect([tmp_path])
    assert len(results.scores) == n_scores and list(results.models) == ["good"]
    [warning] = results.warnings
    assert warning.startswith(f"left out: {tmp_path}") and "\n" not in warning


GOOD_METRICS = {"tokens_seen": 400, "tokens_per_second": 250.0, "peak_memory_gib": 0.5}
ODD_METRICS = [{"peak_memory_gib": "x"}, {"tokens_per_second": 0}, {"tokens_seen": "x"}, {"device": ["x"]}, None]


def test_odd_files_of_metrics_are_named_and_left_out(tmp_path):
    for name, metrics in enumerate([*ODD_METRICS, {}]):
        making.perplexity(tmp_path, making.info(f"m{name}", "pi", 5), 512, 20.0)
        making.write(tmp_path / f"m{name}" / "config.json", {"context_extension": {}})
        text = "[" * 99_999 + "}" if metrics is None else json.dumps(GOOD_METRICS | metrics)
        (tmp_path / f"m{name}" / "metrics.jsonl").write_text(text)
    results = collect([tmp_path / "results"])
    trainings, _ = costs.read_training(tmp_path, results)
    assert [(cost["model"], cost["seconds"]) for cost in trainings] == [("m5", 1.6)]
    for i, warning in zip(range(5), results.warnings, strict=True):
        assert warning.startswith(f"left out: costs in {tmp_path}/m{i}/metrics.jsonl: ")


def test_repeated_results_and_two_models_of_one_name_are_reported(tmp_path):
    info = making.info("m", "pi", 5, settings={"checkpoint": "first"})
    for run, changes in (("a", {}), ("b", {"trained_length": 256}), ("c", {"settings": {"checkpoint": "other"}})):
        making.perplexity(tmp_path / run, info | {"model": f"/{run}/m", **changes}, 512, 20.0)
    making.perplexity(tmp_path / "d", info, 512, 40.0)
    results = collect([tmp_path / run for run in "abcd"])
    assert [row.models for row in make_rows(results)] == [["b/m"], ["c/m"], ["m"]]
    assert results.warnings[:2] == [f"/{run}/m is another checkpoint than the first m" for run in "bc"]
    assert "d/results" in results.warnings[2]


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
        making.info("b", "base", None),
        making.info("b2", "base", None),
        making.info("lm", "lm_infinite", 0),
        making.info("other", "their_method", 10, trained_length=2048, exact_attention=None),
        making.info("mine", "my_method", 10, trained_length=1024),
        making.info("n32", "ntk", 10, trained_length=1024),
        making.info("n64", "ntk", 10, trained_length=2048),
        making.info("n64_more", "ntk", 20, trained_length=2048),
        making.info("p1", "pi", 10, trained_length=1024, training_seed=1),
        making.info("p2", "pi", 10, trained_length=1024, training_seed=2),
    ]
    for info in models:
        making.perplexity(tmp_path, info, 512, 20.0)
    rows = make_rows(collect([tmp_path]))
    labels = ["base, b", "base, b2", "my_method", "ntk 1k", "ntk 2k, n64", "ntk 2k, n64_more", "pi"]
    assert [row.label for row in rows[:7]] == labels
    assert [row.group for row in rows[1:7]] == ["base"] + ["exact attention, fine-tuned"] * 5
    assert [row.group for row in rows[7:]] == ["approximate attention, frozen", "attention unknown, fine-tuned"]
    assert rows[6].models == ["p1", "p2"]
    assert target_length(rows[:-1]) == 1024  # the commonest
    assert target_length(rows[3:5]) == 2048  # both once: the longer
    assert target_length(rows[:1]) == 128  # the base's own
