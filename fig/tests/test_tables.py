"""Table 1: what a column takes, what is best, what ties, seeds; and the paper's numbers where they may stand."""

import csv
import math

import pytest

import making
import paper
import tables
from collect import collect
from rows import make_rows, target_length


def build(roots, length=None):
    rows = make_rows(collect(roots))
    columns = tables.columns_of(rows, length or target_length(rows))
    comparisons = paper.compare(rows)
    tables.fill(columns, rows, lambda row, column: paper.for_table(comparisons, row, column))
    return rows, columns


def test_columns_are_of_the_trained_length(study, roots):
    _, columns = build(roots(study))
    assert [(c.head, c.what) for c in columns] == [
        ("Perplexity ↓", "heldout, 512 tokens, stand-in data"),
        ("Needle ↑", "3 lengths, 128–1k tokens, stand-in data"),
        ("Many-shot ↑", "TREC, 10 examples, stand-in data"),
        ("LongBench ↑", "3 sets, stand-in data"),
        ("RULER ↑", "3 tasks, 512 tokens, stand-in data"),
    ]
    assert columns[1].n == "n = 180"
    _, shorter = build(roots(study), 200)
    assert [c.what.split(", stand")[0] for c in shorter][:2] == ["heldout, 128 tokens", "1 length, 128–128 tokens"]


def test_values_intervals_best_and_ties(study, roots, tmp_path):
    rows, columns = build(roots(study))
    cells = columns[4].cells  # RULER: the mean over tasks
    ntk = next(row for row in rows if row.label == "ntk")
    values = [ntk.get("ruler", task, 512).value for task in making.TASKS]
    assert cells["ntk"].score.value == pytest.approx(sum(values) / 3)
    assert cells["ntk"].score.low < cells["ntk"].score.value < cells["ntk"].score.high
    assert [c.mark for c in cells.values()].count("best") == 1 and cells["self_extend (frozen)"].mark == "best"
    assert cells["yarn"].mark == "tie" and cells["landmark"].mark == "" and not cells["yarn"].unpaired
    assert columns[0].cells["self_extend (frozen)"].mark == "best"  # the lowest perplexity
    assert columns[0].cells["ntk"].unpaired  # no losses were recorded

    text = tables.markdown(columns, rows)
    assert "| *exact attention, fine-tuned* | | | | | |" in text
    assert "| self_extend (frozen) | **26.50** [25.17, 27.83] | **9" in text and "28.00 ≈ [26.60, 29.40]" in text
    assert "not in pairs, for want of shared samples: Perplexity." in text
    latex = tables.latex(columns, rows)
    assert r"self\_extend (frozen) & \textbf{26.50} {\scriptsize [25.17, 27.83]}" in latex
    assert latex.count(r"\begin") == latex.count(r"\end") and latex.count(" & ") == 5 * (len(rows) + 2)
    tables.write(columns, rows, tmp_path)
    with (tmp_path / "table1.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == 5 * len(rows)
    [row] = [row for row in table if (row["method"], row["benchmark"]) == ("yarn", "ruler")]
    assert (row["mark"], row["comparison"], row["n"], row["paper"]) == ("tie", "paired", "60", "")


def test_perplexity_in_pairs_where_losses_are_recorded(tmp_path):
    """Both texts are as varied; one model is a little worse everywhere: apart in pairs, not by the intervals."""
    losses = [3 + math.sin(i) for i in range(40)]
    for name, method, change in (("a", "pi", 0.0), ("b", "yarn", 0.02)):
        value = math.exp(sum(losses) / 40 + change)
        who = making.facts(name, method, 5)
        making.perplexity(tmp_path, who, 512, value, losses=[loss + change for loss in losses])
    _, [column] = build([tmp_path])
    assert (column.cells["pi"].mark, column.cells["yarn"].mark, column.cells["yarn"].unpaired) == ("best", "", False)
    for path in tmp_path.rglob("b_*.json"):
        path.write_text(path.read_text().replace("window_losses", "other"))
    _, [column] = build([tmp_path])
    assert (column.cells["yarn"].mark, column.cells["yarn"].unpaired) == ("tie", True)


def test_a_part_that_is_lacking_is_said_and_not_compared(study, roots, tmp_path):
    good, bad = making.facts("good", "pi", 5), making.facts("bad", "yarn", 5)
    every = {task: making.entry([0.5, 1.0], "indices") for task in making.TASKS}
    making.ruler(tmp_path, good, 512, every)
    making.ruler(tmp_path, bad, 512, {"vt": making.entry([1.0, 1.0], "indices")})
    rows, [column] = build([tmp_path / "ruler"])
    assert column.cells["yarn"].mark == "" and column.cells["pi"].mark == "best"
    assert "100.0 [34.2, 100.0]; 1 of 3 only" in tables.markdown([column], rows)


def test_nothing_found_is_not_certain(tmp_path):
    """A bootstrap of zeros alone has no width; Wilson's interval of 0 of 20 reaches 16 %."""
    making.ruler(tmp_path, making.facts("m", "pi", 5), 512, {t: making.entry([0.0] * 10, "indices") for t in "ab"})
    _, [column] = build([tmp_path / "ruler"])
    assert (column.cells["pi"].value, column.cells["pi"].interval) == ("0.0", "[0.0, 16.1]")


def test_official_and_standin_sets_are_never_averaged(tmp_path):
    who = making.facts("m", "pi", 5)
    entries = {"standin_qasper": making.entry([1.0, 1.0], "ids"), "lcc": making.entry([0.0, 0.0], "ids", "official")}
    making.sets(tmp_path, who, "longbench", entries)
    _, [column] = build([tmp_path / "longbench"])
    assert (column.what, column.cells["pi"].score.value) == ("1 set", 0.0)


def test_seeds_show_their_mean_and_spread(tmp_path):
    """Three seeds: mean of the means; samples are averaged before they are drawn; sd with n - 1."""
    scores = {1: [1.0, 0.0, 1.0, 0.0], 2: [1.0, 0.0, 1.0, 1.0], 3: [1.0, 0.0, 1.0, 1.0]}
    for seed, values in scores.items():
        who = making.facts(f"pi_seed{seed}", "pi", 5, training_seed=seed)
        making.sets(tmp_path, who, "trec", {"standin_trec_5shots": making.entry(values, "ids")})
        making.perplexity(tmp_path, who, 512, 20.0 * seed)
    rows, [perplexity, trec] = build([tmp_path / "longbench", tmp_path / "results"])
    [row] = rows
    cell = trec.cells["pi"]
    assert cell.score.value == pytest.approx(100 * (0.5 + 0.75 + 0.75) / 3) and cell.score.n == 4
    assert cell.spread == pytest.approx(25 / math.sqrt(3))
    assert list(cell.score.samples.values()) == pytest.approx([100, 0, 100, 200 / 3])
    assert cell.score.low < cell.score.value < cell.score.high
    assert perplexity.cells["pi"].score.value == pytest.approx(20 * 6 ** (1 / 3))  # exp of the mean loss
    assert "| pi | **66.7** [" in tables.markdown([trec], rows) and "3 seeds, sd 14.4" in tables.markdown([trec], rows)


# --------------------------------------------------------------------------- the paper
BASE = "meta-llama/Llama-2-7b-hf"
NTK = {"base_model": BASE, "original_length": 4096, "trained_length": 32768}
OFFICIAL = {"path": "data/pg19/test.bin", "sha256": "1", "source": "official", "dataset": "emozilla/pg19-test"}


def paper_run(root, **changes):
    """NTK-32K as the paper ran it, with every benchmark; `changes` goes into each result."""
    who = making.facts("ntk32", "ntk", 1_008_000_000, **NTK) | changes
    making.perplexity(root, who, 32768, 5.80, data=OFFICIAL)
    sets = paper.PAPER["table_11"]["values"]["NTK-32K"]
    entries = {name: making.entry([0.5, 0.25], "ids", "official", run={"max_length": 32768}) for name in sets}
    making.sets(root, {"protocol": "lceg", **who}, "longbench", entries)
    tasks = {t: making.entry([1.0] * 500, "indices", "official") for t in paper.PAPER["table_15"]["values"]["PI"]}
    making.ruler(root, {**who, "protocol": "lceg"}, 32768, tasks)
    for length in paper.PAPER["needle"]["lengths"]:
        for depth in range(0, 100, 10):
            extra = {"lceg_overlap": 0.75, "protocol": "lceg", "template": "book"}
            making.needle(root, who, length, depth, [1.0], data={"source": "official"}, **extra)
    return root


def test_a_run_of_the_paper_stands_beside_the_paper(tmp_path, roots):
    rows, columns = build(roots(paper_run(tmp_path)))
    text = tables.markdown(columns, rows)
    assert "**5.80** [5.51, 6.09]; paper 5.79, difference +0.01" in text
    assert "**100.0** [98.1, 100.0]; by its" in text  # all of 200 prompts, by our own score
    assert "by its protocol 75.00, paper 83.7, difference -8.70" in text
    assert "paper 35.32, difference +2.18" in text and "paper 59.42, difference +40.58" in text
    found = {(c.table, c.what.split(",")[0]): c for c in paper.compare(rows)}
    assert found["Table 11", "qasper"].theirs == 27.5 and found["Table 15", "cwe"].difference == pytest.approx(88.22)


@pytest.mark.parametrize(
    "change",
    [
        {"base_model": "some/other-7b"},
        {"original_length": 8192},
        {"trained_tokens": 500_000_000},
        {"trained_length": 16384},
        {"method": "origin"},
    ],
)
def test_another_model_is_not_compared(tmp_path, roots, change):
    rows = make_rows(collect(roots(paper_run(tmp_path, **change))))
    assert paper.compare(rows) == []


def test_each_benchmark_needs_its_protocol_and_data(tmp_path, roots):
    def compared(name, **changes):
        root = tmp_path / name
        who = making.facts("ntk32", "ntk", 1_008_000_000, **NTK)
        making.perplexity(root, who, 32768, 5.80, **{"data": OFFICIAL, **changes})
        return paper.compare(make_rows(collect([root])))

    assert len(compared("good")) == 1
    assert not compared("data", data=OFFICIAL | {"source": "user"}) and not compared("some", n_windows_total=3000)
    assert not compared("stride", sliding_window=512) and not compared("documents", documents=2)
    paper_run(tmp_path / "rest")
    for path in (tmp_path / "rest").rglob("*.json"):
        text = path.read_text().replace('"protocol": "lceg"', '"protocol": "ours"')
        path.write_text(text)
    rows = make_rows(collect(roots(tmp_path / "rest")))
    assert {one.benchmark for one in paper.compare(rows)} == {"perplexity"}


def test_the_papers_numbers_agree_where_they_can():
    """Means of the tasks are the published means; and the conflicts listed are really there."""
    values = paper.PAPER["table_11"]["values"]
    for name, one in paper.PAPER["table_1"]["values"].items():
        assert sum(values[name].values()) / 16 == pytest.approx(one["longbench"], abs=0.006)
        tasks = paper.PAPER["table_15"]["values"][name].values()
        assert sum(tasks) / 13 == pytest.approx(one["ruler"], abs=0.006)
        assert paper.PAPER["table_3"]["values"][name]["32768"] == one["ruler"]
        theirs = paper.PAPER["table_2"]["values"]["pg19"][name]["32768"]
        assert (theirs == one["perplexity"]) == (not paper.conflict(f"table_2/pg19/{name}/32768"))
    for entry in paper.PAPER["conflicts"]:
        for place in entry["where"]:
            table, *path = place.split("/")
            at = paper.PAPER[table].get("values", paper.PAPER[table])
            assert path or at
            if table == "table_1" and path:
                assert path[0] == "trec" or path[0] in at[path[1]]
            elif path:
                for key in path:
                    at = at[key]


def test_landmark_and_many_shot_are_never_compared(tmp_path):
    facts = {"base_model": BASE, "original_length": 4096, "trained_length": 512}
    who = making.facts("l", "landmark", 1_008_000_000, **facts)
    making.perplexity(tmp_path, who, 32768, 8.13, data=OFFICIAL)
    making.sets(tmp_path, who, "trec", {"trec_10shots": making.entry([1.0, 0.0], "ids", "official")})
    rows = make_rows(collect([tmp_path / "results", tmp_path / "longbench"]))
    assert paper.name_of(rows[0]) == "Landmark" and paper.compare(rows) == []
