"""Table 1: what a column takes, what is best, what ties, seeds; and the paper's numbers where they may stand."""

import csv
import math

import pytest

import making
import paper
import tables
from collect import collect
from rows import make_rows, target_length


def build(root, length=None):
    rows = make_rows(collect([root]))
    columns = tables.make_columns(rows, length or target_length(rows))
    comparisons = paper.compare(rows)
    tables.fill(columns, rows, lambda row, column: paper.for_table(comparisons, row, column))
    return rows, columns


def test_columns_are_of_the_trained_length(study):
    _, columns = build(study)
    assert [(column.head, column.what) for column in columns] == [
        ("Perplexity ↓", "heldout, 512 tokens, stand-in data"),
        ("Needle ↑", "3 lengths, 128–1k tokens, stand-in data"),
        ("Many-shot ↑", "TREC, 10 examples, stand-in data"),
        ("LongBench ↑", "3 sets, stand-in data"),
        ("RULER ↑", "3 tasks, 512 tokens, stand-in data"),
    ]
    assert columns[1].n == "n = 180"
    _, columns = build(study, 200)
    assert columns[0].what == "heldout, 128 tokens, stand-in data"


def test_values_intervals_best_and_ties(study, tmp_path):
    rows, columns = build(study)
    cells = columns[4].cells  # RULER: the mean over tasks
    ntk = next(row for row in rows if row.label == "ntk")
    values = [score.value for score in ntk.select("ruler") if score.length == 512]
    assert cells["ntk"].score.value == pytest.approx(sum(values) / 3)
    assert cells["ntk"].score.low < cells["ntk"].score.value < cells["ntk"].score.high
    assert [label for label, cell in cells.items() if cell.mark == "best"] == ["self_extend (frozen)"]
    assert cells["yarn"].mark == "tie" and cells["landmark"].mark == "" and not cells["yarn"].unpaired
    assert columns[0].cells["self_extend (frozen)"].mark == "best"  # the lowest perplexity
    assert columns[0].cells["ntk"].unpaired  # no losses were recorded

    tables.write(columns, rows, tmp_path)
    text = (tmp_path / "table1.md").read_text()
    assert "| *exact attention, fine-tuned* | | | | | |" in text
    assert "| self_extend (frozen) | **26.50** [25.17, 27.83] | **9" in text and "28.00 ≈ [26.60, 29.40]" in text
    assert "not in pairs, for want of shared samples: Perplexity." in text
    latex = (tmp_path / "table1.tex").read_text()
    assert r"self\_extend (frozen) & \textbf{26.50} {\scriptsize [25.17, 27.83]} & " in latex
    assert r" & ntk & 28.00$^\approx$ {\scriptsize [26.60, 29.40]} & " in latex
    with (tmp_path / "table1.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 5 * len(rows)
    [line] = [line for line in lines if (line["method"], line["benchmark"]) == ("yarn", "ruler")]
    assert (line["mark"], line["comparison"], line["n"], line["paper"]) == ("tie", "paired", "60", "")


def test_perplexity_is_compared_in_pairs_where_losses_are_recorded(tmp_path):
    """One model is a little worse on every window: different in pairs, the same by the intervals."""
    losses = [3 + math.sin(i) for i in range(40)]
    for name, method, change in (("a", "pi", 0.0), ("b", "yarn", 0.02)):
        value = math.exp(sum(losses) / 40 + change)
        info = making.info(name, method, 5)
        making.perplexity(tmp_path, info, 512, value, losses=[loss + change for loss in losses])
    _, [column] = build(tmp_path)
    assert (column.cells["pi"].mark, column.cells["yarn"].mark, column.cells["yarn"].unpaired) == ("best", "", False)
    for path in tmp_path.rglob("b_*.json"):
        path.write_text(path.read_text().replace("window_losses", "other"))
    _, [column] = build(tmp_path)
    assert (column.cells["yarn"].mark, column.cells["yarn"].unpaired) == ("tie", True)
    assert tables.tied_unpaired((10, 9, 11), (11.3, 10.3, 12.3))
    assert not tables.tied_unpaired((10, 9, 11), (11.5, 10.5, 12.5))


def test_missing_tasks_zeros_and_standin_data(tmp_path):
    entries = {task: making.entry([0.5, 1.0], "indices") for task in making.TASKS}
    making.ruler(tmp_path / "a", making.info("good", "pi", 5), 512, entries)
    making.ruler(tmp_path / "a", making.info("bad", "yarn", 5), 512, {"vt": making.entry([1.0, 1.0], "indices")})
    rows, [column] = build(tmp_path / "a")
    assert column.cells["yarn"].mark == "" and column.cells["pi"].mark == "best"
    assert "100.0 [34.2, 100.0]; 1 of 3 only" in tables.markdown([column], rows)

    zeros = {task: making.entry([0.0] * 10, "indices") for task in "ab"}
    making.ruler(tmp_path / "b", making.info("m", "pi", 5), 512, zeros)
    _, [column] = build(tmp_path / "b")  # Wilson's interval: a bootstrap of zeros has no width
    assert (column.cells["pi"].interval, column.cells["pi"].mark) == ("[0.0, 16.1]", "")

    sets = {"standin_qasper": making.entry([1.0], "ids"), "lcc": making.entry([0.0], "ids", "official")}
    making.sets(tmp_path / "c", making.info("m", "pi", 5), "longbench", sets)
    _, [column] = build(tmp_path / "c")  # official and stand-in sets are never averaged
    assert (column.what, column.cells["pi"].score.value) == ("1 set", 0.0)


def test_training_seeds_show_their_mean_and_spread(tmp_path):
    """Samples are averaged before they are resampled; the standard deviation is that with n - 1."""
    scores = {1: [1.0, 0.0, 1.0, 0.0], 2: [1.0, 0.0, 1.0, 1.0], 3: [1.0, 0.0, 1.0, 1.0]}
    for seed, values in scores.items():
        info = making.info(f"pi_seed{seed}", "pi", 5, training_seed=seed)
        making.sets(tmp_path, info, "trec", {"standin_trec_5shots": making.entry(values, "ids")})
        making.perplexity(tmp_path, info, 512, 20.0 * seed)
        tasks = making.TASKS[: 1 + seed % 2]  # the second seed lacks a task
        making.ruler(tmp_path, info, 512, {task: making.entry([0.5, seed / 4], "indices") for task in tasks})
    rows, [perplexity, trec, ruler] = build(tmp_path)
    assert ruler.cells["pi"].seeds_sd is None
    cell = trec.cells["pi"]
    assert len(rows) == 1 and cell.score.n == 4
    assert cell.score.value == pytest.approx(100 * (0.5 + 0.75 + 0.75) / 3)
    assert cell.seeds_sd == pytest.approx(25 / math.sqrt(3))
    assert list(cell.score.samples.values()) == pytest.approx([100, 0, 100, 200 / 3])
    assert perplexity.cells["pi"].score.value == pytest.approx(20 * 6 ** (1 / 3))  # exp of the mean loss
    text = tables.markdown([trec], rows)
    assert "| pi | **66.7** [" in text and "3 seeds, sd 14.4" in text


# --- the paper
NTK = {"base_model": "meta-llama/Llama-2-7b-hf", "original_length": 4096, "trained_length": 32768}
OFFICIAL = {"path": "data/pg19/test.bin", "sha256": "1", "source": "official", "dataset": "emozilla/pg19-test"}


def paper_run(root, protocol="lceg"):
    """NTK-32K as the paper ran it, with every benchmark."""
    info = making.info("ntk32", "ntk", 1_008_000_000, **NTK)
    making.perplexity(root, info, 32768, 5.80, data=OFFICIAL)
    info["protocol"] = protocol
    sets = paper.PUBLISHED["table_11"]["values"]["NTK-32K"]
    entries = {name: making.entry([0.5, 0.25], "ids", "official", run={"max_length": 32768}) for name in sets}
    making.sets(root, info, "longbench", entries)
    tasks = paper.PUBLISHED["table_15"]["values"]["PI"]
    making.ruler(root, info, 32768, {task: making.entry([1.0] * 500, "indices", "official") for task in tasks})
    for length in paper.PUBLISHED["needle"]["lengths"]:
        for depth in range(0, 100, 10):
            extra = {"lceg_overlap": 0.75, "protocol": protocol, "template": "book", "data": {"source": "official"}}
            making.needle(root, info, length, depth, [1.0], **extra)
    return root


def test_a_run_of_the_paper_is_compared_with_it(tmp_path):
    rows, columns = build(paper_run(tmp_path))
    text = tables.markdown(columns, rows)
    assert "**5.80** [5.51, 6.09]; paper 5.79, difference +0.01" in text
    assert "**100.0** [98.1, 100.0]; by its protocol 75.00, paper 83.7, difference -8.70" in text
    assert "paper 35.32, difference +2.18" in text and "paper 59.42, difference +40.58" in text
    found = {(one.table, one.what.split(",")[0]): one for one in paper.compare(rows)}
    assert found["Table 11", "qasper"].theirs == 27.5 and found["Table 15", "cwe"].difference == pytest.approx(88.22)


def test_another_model_protocol_or_data_is_not_compared(tmp_path):
    models = [{"base_model": "some/other-7b"}, {"original_length": 8192}, {"trained_tokens": 500_000_000}]
    models += [{"trained_length": 16384}, {"method": "origin"}, {"protocol": "ours", "data": OFFICIAL}]
    runs = [{"data": OFFICIAL | {"source": "user"}}, {"n_windows_total": 3000}, {"sliding_window": 512}]
    for i, changes in enumerate(models + runs + [{"data": OFFICIAL}]):
        info = making.info("ntk32", "ntk", 1_008_000_000, **NTK)
        making.perplexity(tmp_path / str(i), info, 32768, 5.80, **{"data": OFFICIAL} | changes)
        assert len(paper.compare(make_rows(collect([tmp_path / str(i)])))) == (changes == {"data": OFFICIAL})
    rows = make_rows(collect([paper_run(tmp_path / "ours", protocol="ours")]))
    assert {one.benchmark for one in paper.compare(rows)} == {"perplexity"}


def test_the_papers_numbers_agree_where_no_conflict_is_listed():
    for name, means in paper.PUBLISHED["table_1"]["values"].items():
        sets = paper.PUBLISHED["table_11"]["values"][name].values()
        tasks = paper.PUBLISHED["table_15"]["values"][name].values()
        assert sum(sets) / 16 == pytest.approx(means["longbench"], abs=0.006)
        assert sum(tasks) / 13 == pytest.approx(means["ruler"], abs=0.006)
        assert paper.PUBLISHED["table_3"]["values"][name]["32768"] == means["ruler"]
        theirs = paper.PUBLISHED["table_2"]["values"]["pg19"][name]["32768"]
        assert (theirs == means["perplexity"]) == (not paper.conflict(f"table_2/pg19/{name}/32768"))
