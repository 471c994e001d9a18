"""Table 1: what a column takes, what is best, what ties, seeds; and the paper's numbers where they may stand."""

import math

import numpy as np
import pandas as pd
import pytest

import correlation
import making
import paper
import tables
from collect import collect
from rows import make_frame, make_rows, target_length
from stats import mean_over_documents, mean_over_grid


def build(root, benchmarks=tables.PAPER_COLUMNS):
    """(rows, scores, columns) of the results in a folder."""
    results = collect([root])
    rows = make_rows(results)
    scores = make_frame(rows, results).query("metric in ('perplexity', 'score')")
    columns = tables.make_columns(scores, target_length(rows), benchmarks)
    return rows, scores, columns


def marks(column) -> dict[str, str]:
    return {label: cell.mark for label, cell in column.cells.items()}


def test_columns_are_of_the_trained_length(study):
    _, scores, columns = build(study)
    assert [(column.head, column.what) for column in columns] == [
        ("Perplexity ↓", "heldout, 512 tokens, 10 documents, stand-in data"),
        ("Needle ↑", "3 lengths, 128–1k tokens, stand-in data"),
        ("Many-shot ↑", "TREC, 10 examples, stand-in data"),
        ("LongBench ↑", "3 sets, stand-in data"),
        ("RULER ↑", "3 tasks, 512 tokens, stand-in data"),
    ]
    assert columns[1].n == "n = 180"
    columns = tables.make_columns(scores, 200)
    assert columns[0].what == "heldout, 128 tokens, 10 documents, stand-in data"


def test_values_intervals_best_and_ties(study):
    rows, _, columns = build(study)
    cells = columns[4].cells  # RULER: the mean over tasks
    values = columns[4].scores.query("label == 'ntk'").value
    assert len(values) == 3 and cells["ntk"].value == pytest.approx(values.mean())
    assert cells["ntk"].low < cells["ntk"].value < cells["ntk"].high
    assert [label for label, cell in cells.items() if cell.mark == "best"] == ["self_extend (frozen)"]
    assert (cells["yarn"].mark, cells["landmark"].mark) == ("tie", "worse")
    assert columns[0].cells["self_extend (frozen)"].mark == "best"  # the lowest perplexity

    text = tables.markdown(columns, rows)
    assert "| *exact attention, fine-tuned* | | | | | |" in text
    assert "| self_extend (frozen) | **26.50** [25.17, 27.83] | **9" in text and "| 80.0 ≈ [56.2, 92.6]" in text
    latex = tables.latex(columns, rows)
    assert r"self\_extend (frozen) & \textbf{26.50} {\scriptsize [25.17, 27.83]} & " in latex
    assert r" & 80.0$^\approx$ {\scriptsize [56.2, 92.6]} & " in latex
    assert cells["yarn"].n == 60


def test_perplexity_is_compared_document_by_document(tmp_path):
    """One model is a little worse in every document: different in pairs, though the intervals overlap."""
    losses = np.array([3 + math.sin(i) for i in range(10)])
    own = np.array([0.01 * math.cos(5 * i) for i in range(10)])
    other = np.array([0.05 * math.cos(i) for i in range(10)])
    changes = {"pi": own, "yarn": 0.05 + own, "ntk": 0.001 + own, "origin": other}
    for method, change in changes.items():
        value = math.exp(3.001 if method == "origin" else 3 + change.mean())
        making.perplexity(tmp_path, making.info(method, method, 5), 512, value, losses=(losses + change).tolist())
    _, _, [column] = build(tmp_path)
    assert marks(column) == {"pi": "best", "ntk": "worse", "yarn": "worse", "origin": "tie"}


OTHER_DATA = {"path": "../data/heldout/test.bin", "sha256": "other", "source": "standin"}


@pytest.mark.parametrize(
    "changes",
    ({"document_losses": None}, {"data": OTHER_DATA}, {"sliding_window": 64}, {"losses": [3.0] * 9}, {"n": 30}),
)
def test_a_method_that_cannot_be_paired_leaves_the_others_compared(tmp_path, changes):
    for name, method, value in (("a", "pi", 20.0), ("b", "yarn", 21.0), ("c", "ntk", 22.0)):
        own = changes if name == "b" else {}
        making.perplexity(tmp_path, making.info(name, method, 5), 512, value, **own)
    _, _, [column] = build(tmp_path)
    assert marks(column) == {"pi": "best", "yarn": "not compared", "ntk": "worse"}
    assert column.cells["yarn"].details[-1] == "samples not shared"


def test_a_method_with_few_of_the_samples_is_not_compared(tmp_path):
    answers = {"pi": [1.0] * 20, "yarn": [1.0] * 18 + [0.0] * 2, "ntk": [1.0, 0.0, 0.0], "origin": [0.0] * 20}
    for method, scores in answers.items():
        making.ruler(tmp_path, making.info(method, method, 5), 512, {"vt": making.entry(scores, "indices")})
    _, _, [column] = build(tmp_path)
    assert marks(column) == {"pi": "best", "yarn": "tie", "ntk": "not compared", "origin": "worse"}


@pytest.mark.parametrize("drawn", [True, False])
def test_needle_samples_trials_if_their_texts_are_drawn_and_cells_otherwise(tmp_path, drawn):
    """All cells are alike and the trials unlike."""
    for method, scores in {"pi": [1.0, 1.0, 0.0, 1.0], "yarn": [1.0, 0.0, 0.0, 1.0]}.items():
        for depth in (0, 50, 100):
            making.needle(tmp_path, making.info(method, method, 5), 512, depth, scores, drawn_text=drawn)
    _, _, [column] = build(tmp_path)
    cell = column.cells["pi"]
    expected = mean_over_grid([[1.0, 1.0, 0.0, 1.0]] * 3, drawn_text=drawn).interval()
    assert (cell.low / 100, cell.high / 100) == pytest.approx(expected) and cell.value == 75
    assert column.cells["yarn"].mark == ("tie" if drawn else "worse")


def test_missing_tasks_zeros_and_standin_data(tmp_path):
    entries = {task: making.entry([0.5, 1.0], "indices") for task in making.TASKS}
    making.ruler(tmp_path / "a", making.info("good", "pi", 5), 512, entries)
    making.ruler(tmp_path / "a", making.info("bad", "yarn", 5), 512, {"vt": making.entry([1.0, 1.0], "indices")})
    rows, _, [column] = build(tmp_path / "a")
    assert column.cells["yarn"].mark == "" and column.cells["pi"].mark == "best"
    assert "100.0 [34.2, 100.0]; 1 of 3 only" in tables.markdown([column], rows)

    zeros = {task: making.entry([0.0] * 10, "indices") for task in "ab"}
    making.ruler(tmp_path / "b", making.info("m", "pi", 5), 512, zeros)
    _, _, [column] = build(tmp_path / "b")  # though no sample differs from another
    assert (column.cells["pi"].details, column.cells["pi"].mark) == (["[0.0, 16.1]"], "")

    sets = {"standin_qasper": making.entry([1.0], "ids"), "lcc": making.entry([0.0], "ids", "official")}
    making.sets(tmp_path / "c", making.info("m", "pi", 5), "longbench", sets)
    _, _, [column] = build(tmp_path / "c")  # official and stand-in sets are never averaged
    assert (column.what, column.cells["pi"].value) == ("1 set", 0.0)


def test_training_seeds_show_their_mean_and_spread(tmp_path):
    """Samples are averaged before they are resampled; the standard deviation is that with n - 1."""
    scores = {1: [1.0, 0.0, 1.0, 0.0], 2: [1.0, 0.0, 1.0, 1.0], 3: [1.0, 0.0, 1.0, 1.0]}
    for seed, values in scores.items():
        info = making.info(f"pi_seed{seed}", "pi", 5, training_seed=seed)
        making.sets(tmp_path, info, "trec", {"standin_trec_5shots": making.entry(values, "ids")})
        losses = [math.log(20 * seed) + 0.1 * seed * math.sin(i) for i in range(10)]
        making.perplexity(tmp_path, info, 512, 20.0 * seed, losses=losses)
        tasks = making.TASKS[: 1 + seed % 2]  # the second seed lacks a task
        making.ruler(tmp_path, info, 512, {task: making.entry([0.5, seed / 4], "indices") for task in tasks})
    rows, _, [perplexity, trec, ruler] = build(tmp_path)
    assert ruler.cells["pi"].seeds == 1
    cell = trec.cells["pi"]
    assert len(rows) == 1 and (cell.n, cell.seeds) == (4, 3)
    assert cell.value == pytest.approx(100 * (0.5 + 0.75 + 0.75) / 3)
    assert cell.seeds_sd == pytest.approx(25 / math.sqrt(3))
    assert list(cell.scores[0].samples.values()) == pytest.approx([100, 0, 100, 200 / 3])
    cell = perplexity.cells["pi"]
    assert cell.value == pytest.approx(20 * 6 ** (1 / 3))  # exp of the mean loss
    mean_losses = [math.log(cell.value) + 0.2 * math.sin(i) for i in range(10)]
    expected = np.exp(mean_over_documents(mean_losses, np.ones(10)).interval())
    assert (cell.low, cell.high) == pytest.approx(tuple(expected))
    text = tables.markdown([trec], rows)
    assert "| pi | **66.7** [" in text and "3 seeds, sd 14.4" in text


# --- the paper
NTK = {"base_model": "meta-llama/Llama-2-7b-hf", "original_length": 4096, "trained_length": 32768}
PG19 = {"path": "data/pg19/test.bin", "sha256": "1" * 64, "source": "unverified"}  # a file without a description


def paper_run(root, protocol="lceg"):
    """NTK-32K as the paper ran it, with every benchmark."""
    info = making.info("ntk32", "ntk", 1_008_000_000, **NTK)
    making.perplexity(root, info, 32768, 5.80, data=PG19)
    info["protocol"] = protocol
    published = pd.read_table(paper.FOLDER / "paper.tsv").query("name == 'NTK-32K' and task != 'mean'")
    for benchmark, own in published.groupby("benchmark"):
        if benchmark == "longbench":
            entry = making.entry([0.5, 0.25], "ids", "official", run={"max_length": 32768})
            making.sets(root, info, "longbench", dict.fromkeys(own.task, entry))
        elif benchmark == "ruler":
            entry = making.entry([1.0] * 500, "indices", "official")
            making.ruler(root, info, 32768, dict.fromkeys(own.task, entry))
    for length in (1000, 62872):
        extra = {"lceg_overlap": 0.75, "protocol": protocol, "template": "book", "data": {"source": "official"}}
        making.needle(root, info, length, 50, [1.0], **extra)
    return root


def compare(root, token_files=(PG19["sha256"],)):
    results = collect([root])
    return paper.compare(make_frame(make_rows(results), results), token_files)


def test_a_run_of_the_paper_is_compared_with_it(tmp_path):
    comparisons = compare(paper_run(tmp_path))
    lines = comparisons.set_index(["table", "task"])
    assert set(lines.benchmark) == {"perplexity", "longbench", "ruler"}  # the needle's prompt is not the paper's
    assert lines.paper["Table 11", "qasper"] == 27.5 and lines.difference["Table 15", "cwe"] == pytest.approx(88.22)
    means = comparisons.query("task == 'mean'").set_index("benchmark")
    assert means.difference.to_dict() == pytest.approx({"longbench": 2.18, "ruler": 40.58})
    assert comparisons.query("benchmark == 'perplexity'").difference.item() == pytest.approx(0.01)


def test_another_model_protocol_or_data_is_not_compared(tmp_path):
    models = [{"base_model": "some/other-7b"}, {"original_length": 8192}, {"trained_tokens": 500_000_000}]
    models += [{"trained_length": 16384}, {"method": "origin"}, {"protocol": "ours", "data": PG19}]
    runs = [{"data": PG19 | {"path": "data/mine/test.bin"}}, {"n_windows_total": 3000}, {"sliding_window": 512}]
    for i, changes in enumerate(models + runs + [{"data": PG19}]):
        info = making.info("ntk32", "ntk", 1_008_000_000, **NTK)
        making.perplexity(tmp_path / str(i), info, 32768, 5.80, **{"data": PG19} | changes)
        assert len(compare(tmp_path / str(i))) == (changes == {"data": PG19})
    assert set(compare(paper_run(tmp_path / "ours", protocol="ours")).benchmark) == {"perplexity"}
    assert compare(tmp_path / "9", token_files=()).empty  # perhaps the same books in another order
    with pytest.raises(ValueError, match="--paper_data"):
        compare(tmp_path / "9", token_files=["2" * 64])


def test_further_columns_are_chosen_and_long_ppl_has_its_correlation(tmp_path):
    making.study(tmp_path)
    for name, method, tokens, quality in making.MODELS:
        who = making.info(name, method, tokens, protocol="longppl")
        losses = [3 - 2 * quality, 2 - quality]
        result = {"seq_len": 512, "long_ppl": math.exp(np.mean(losses)), "long_ppl_interval_95": None}
        result |= {"n_key_tokens": 80, "document_losses": {"sum": [40 * loss for loss in losses], "targets": [40, 40]}}
        result |= {"data": {"path": "heldout/test.bin", "source": "standin"}, "settings": {"evaluator": "e"}}
        making.write(tmp_path / "results" / f"{name}_512_heldout_longppl.json", {**who, **result})
        for benchmark, set_ in (("kv", "standin_kv_40pairs"), ("icl", "standin_icl_5shots"), ("short", "arc_easy")):
            scores = [1.0] * round(20 * quality) + [0.0] * (20 - round(20 * quality))
            sets = {"sets": {set_: making.entry(scores, "ids")}, "benchmark": benchmark, "length": 128}
            making.write(tmp_path / benchmark / name / "scores.json", {**who, **sets})
    rows, scores, columns = build(tmp_path, ["perplexity", "long_ppl", "kv", "icl", "short"])
    assert [(column.head, column.what.split(",")[0]) for column in columns[1:]] == [
        ("LongPPL ↓", "heldout"), ("Key-value recall ↑", "40 pairs"), ("In-context labels ↑", "TREC"),
        ("Short tasks ↑", "1 task")]  # fmt: skip
    cells = columns[1].cells
    assert cells["ntk"].value == pytest.approx(math.exp((3 - 1.6 + 2 - 0.8) / 2)) and cells["ntk"].n == 80
    assert marks(columns[1])["self_extend (frozen)"] == "best"  # the lowest
    assert columns[2].cells["ntk"].value == 80

    pairs = correlation.pair_scores(scores, columns)
    table = correlation.correlations(pairs, rows).query("methods == 'all methods'").set_index(["measure", "benchmark"])
    assert table.rho["long_ppl", "kv"] == pytest.approx(-1)  # each better model has the lower LongPPL
    figure = correlation.draw(rows, pairs, table.reset_index()).figure
    assert [len(axes.collections) for axes in figure.axes] == [len(rows)] * 6  # two measures, three benchmarks
