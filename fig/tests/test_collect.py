"""From result files to results.csv and to rows."""

import csv
import shutil

import pytest

import making
from collect import collect, write_results
from rows import make_rows, target_length


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_number_of_every_stage_is_there(study, roots, tmp_path):
    found = collect(roots(study))
    assert found.warnings == [] and len(found.models) == len(making.MODELS)
    write_results(found, tmp_path / "results.csv")
    table = read_csv(tmp_path / "results.csv")
    ntk = [row for row in table if row["model"] == "m_ntk_512"]
    assert {row["training_seed"] for row in ntk} == {"42"} and {row["source"] for row in ntk} == {"standin"}

    def one(**wanted):
        [row] = [row for row in ntk if all(row[key] == value for key, value in wanted.items())]
        return row

    assert one(benchmark="perplexity", length="512", part="")["value"] == "28.0"
    assert one(benchmark="perplexity", length="512", part="last 64")["low"] == str(28 * 1.1 * 0.95)
    assert one(benchmark="perplexity", length="512", part="positions 256-511")["n"] == "40"
    cell = one(benchmark="needle", length="1024", part="depth 50", metric="score")
    assert cell["file"] == "needle/m_ntk_512/m_ntk_512_len_1024_depth_5000_results.json"
    mean = one(benchmark="needle", length="1024", part="", metric="score")
    cells = [row for row in ntk if (row["benchmark"], row["length"], row["metric"]) == ("needle", "1024", "score")]
    assert len(cells) == 4 and mean["n"] == "60"
    assert float(mean["value"]) == pytest.approx(sum(float(c["value"]) for c in cells if c["part"]) / 3)
    assert one(benchmark="trec", task="standin_trec", length="10")["n"] == "20"
    assert one(benchmark="longbench", task="standin_qasper", part="")["protocol"] == "inside"
    assert one(benchmark="longbench", part="category", task="standin_code")["n"] == "20"
    assert one(benchmark="ruler", task="vt", length="1024")["file"].endswith("synthetic/1024/pred/scores.json")


def test_the_same_results_elsewhere_give_the_same_bytes(study, roots, tmp_path):
    """Other folders, other times, files written in another order: results.csv does not change by a byte."""
    copy = tmp_path / "copy"
    making.study(copy, models=making.MODELS[::-1])
    for path in (copy / "results").rglob("*.json"):
        path.write_text(path.read_text().replace('"seconds": 1.5', '"seconds": 7.25'))
    for name, root in (("a", study), ("b", copy)):
        write_results(collect(roots(root)), tmp_path / f"{name}.csv")
    text = (tmp_path / "a.csv").read_bytes()
    assert text == (tmp_path / "b.csv").read_bytes() and str(tmp_path).encode() not in text


def test_what_is_no_result_is_named_and_the_rest_goes_on(study, roots, tmp_path):
    shutil.copytree(study, tmp_path / "s")
    every = len(collect(roots(tmp_path / "s")).scores)
    results = tmp_path / "s" / "results"
    (results / "cut.json").write_text('{"val_perplexity": 1.0, "seq_')
    (results / "list.json").write_text("[1]")  # of something else: passed over, as the next
    (results / "foreign.json").write_text('{"score": 1}')
    making.write(results / "a" / "scores.json", {"benchmark": "other"})
    making.write(results / "b" / "x_results.json", {"context_length": 5})
    making.sets(tmp_path / "s", making.facts("late", "pi", 5), "trec", {"trec_5shots": {"n": 1}})
    twice = making.entry([1.0, 0.0], "ids") | {"ids": ["a", "a"]}
    making.sets(tmp_path / "s", making.facts("twice", "pi", 5), "longbench", {"qasper": twice})
    set_aside = tmp_path / "s" / "needle" / "m_pi_512" / "old"  # made with other settings
    shutil.copytree(tmp_path / "s" / "needle" / "m_pi_512", set_aside)
    found = collect(roots(tmp_path / "s"))
    assert len(found.scores) == every
    named = ("cut.json", "a/scores.json", "x_results.json", "late/scores.json", "twice/scores.json")
    assert len(found.warnings) == len(named)
    for name in named:
        [line] = [line for line in found.warnings if name in line]
        assert line.startswith("left out: ") and "\n" not in line


def test_a_repeated_result_and_two_models_of_one_name(tmp_path):
    who = making.facts("m", "pi", 5)
    making.perplexity(tmp_path / "a", who, 512, 20.0)
    making.perplexity(tmp_path / "b", who | {"trained_length": 256}, 512, 30.0)
    found = collect([tmp_path / "a", tmp_path / "b"])
    assert [s.value for s in found.scores if s.part == ""] == [20.0]
    assert any("m: trained_length is 512 in one result and 256" in line for line in found.warnings)
    assert any("repeats" in line for line in found.warnings)


def test_rows_have_groups_and_names_that_tell_them_apart(tmp_path):
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
        making.perplexity(tmp_path, making.facts(name, method, tokens, **changes), 512, 20.0)
    rows = make_rows(collect([tmp_path]))
    assert [(row.label, row.group) for row in rows] == [
        ("base, b", "base"),
        ("base, b2", "base"),
        ("my_method", "exact attention, fine-tuned"),  # the checkpoint says it, no list of names
        ("ntk 1k", "exact attention, fine-tuned"),
        ("ntk 2k, n64", "exact attention, fine-tuned"),
        ("ntk 2k, n64_more", "exact attention, fine-tuned"),
        ("pi", "exact attention, fine-tuned"),
        ("lm_infinite (frozen)", "approximate attention, frozen"),
        ("their_method", "attention unknown, fine-tuned"),
    ]
    assert [row.models for row in rows][6] == ["p1", "p2"]
    assert target_length(rows[:-1]) == 1024  # the commonest
    assert target_length([row for row in rows if row.method == "ntk"]) == 2048
    assert target_length(rows[3:5]) == 2048  # both once: the longer
    assert target_length(rows[:1]) == 128  # the base's own
