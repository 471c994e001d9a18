"""Table 1: what a column takes, what is best, what ties, seeds; and the paper's numbers where they may stand."""

import math

import numpy as np
import pandas as pd
import pytest

import correlation
import findings
import making
import paper
import tables
from collect import collect
from making import build
from rows import make_frame, make_rows, target_length
from stats import mean_over_documents, mean_over_grid


def marks(column) -> dict[str, str]:
    return {label: cell.mark for label, cell in column.cells.items()}


def build_ruler(root, answers, tasks=making.TASKS):
    """answers: {method: scores}, the same in all tasks."""
    for method, scores in answers.items():
        entries = {task: making.entry(scores, "indices") for task in tasks}
        making.ruler(root, making.info(method, method, 5), 512, entries)
    return build(root)


def test_columns_values_intervals_best_and_ties(study):
    rows, scores, columns = build(study)
    assert [(column.head, column.what) for column in columns] == [
        ("Perplexity ↓", "heldout, 512 tokens, 10 documents, stand-in data"),
        ("Needle ↑", "3 lengths, 128–1k tokens, stand-in data"),
        ("Many-shot ↑", "TREC, 10 examples, stand-in data"),
        ("LongBench ↑", "3 sets, stand-in data"),
        ("RULER ↑", "3 tasks, 512 tokens, stand-in data"),
    ]
    assert tables.make_columns(scores, 200)[0].what.startswith("heldout, 128 tokens")
    needle = columns[1].scores.query("length == 128")
    assert tables.describe_scores("needle", needle) == "1 length, 128 tokens, stand-in data"
    cells = columns[4].cells  # RULER: the mean over tasks
    values = columns[4].scores.query("label == 'ntk'").value
    assert len(values) == 3 and cells["ntk"].value == pytest.approx(values.mean())
    assert cells["ntk"].low < cells["ntk"].value < cells["ntk"].high
    assert (cells["self_extend (frozen)"].mark, cells["yarn"].mark, cells["landmark"].mark) == ("best", "tie", "worse")
    assert (cells["yarn"].n, columns[1].n) == (60, "n = 180")
    assert columns[0].cells["self_extend (frozen)"].mark == "best"  # the lowest perplexity

    text = tables.markdown(columns, rows)
    assert "| *exact attention, fine-tuned* | | | | | |" in text
    assert "| self_extend (frozen) | **26.50** [25.17, 27.83] | **9" in text and "| 80.0 ≈ [56.2, 92.6]" in text
    latex = tables.latex(columns, rows)
    assert r"self\_extend (frozen) & \textbf{26.50} {\scriptsize [25.17, 27.83]} & " in latex
    assert r" & 80.0$^\approx$ {\scriptsize [56.2, 92.6]} & " in latex


OTHER_DATA = {"path": "heldout/x", "sha256": "other", "source": "standin"}
OTHER_RUNS = [{"document_losses": None}, {"data": OTHER_DATA}, {"sliding_window": 64}, {"losses": [3.0] * 9}]


@pytest.mark.parametrize("changes", OTHER_RUNS)
def test_perplexity_is_compared_document_by_document(tmp_path, changes):
    """ntk is a little worse than pi in every document, though the intervals overlap; yarn cannot be paired."""
    losses = {"pi": 0, "ntk": 0.001, "origin": 0.05 * np.cos(range(10)), "yarn": 0.002}
    for method, change in losses.items():
        run = {"losses": list(3 + np.sin(range(10)) + change), **(changes if method == "yarn" else {})}
        making.perplexity(tmp_path, making.info(method, method, 5), 512, math.exp(3 + np.mean(change)), **run)
    _, _, [column] = build(tmp_path)
    assert marks(column) == {"pi": "best", "ntk": "worse", "origin": "tie", "yarn": "not compared"}
    assert column.cells["yarn"].details[-1] == "samples not shared"


def test_a_method_with_few_of_the_samples_is_not_compared(tmp_path):
    answers = {"pi": [1.0] * 20, "yarn": [1.0] * 18 + [0.0] * 2, "ntk": [1.0, 0.0, 0.0], "origin": [0.0] * 20}
    _, _, [column] = build_ruler(tmp_path, answers, ["vt"])
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
    build_ruler(tmp_path / "a", {"pi": [0.5, 1.0]})
    rows, _, [column] = build_ruler(tmp_path / "a", {"yarn": [1.0, 1.0]}, ["vt"])
    assert column.cells["yarn"].mark == "" and column.cells["pi"].mark == "best"
    assert "100.0 [34.2, 100.0]; 1 of 3 only" in tables.markdown([column], rows)

    _, _, [column] = build_ruler(tmp_path / "b", {"pi": [0.0] * 10}, "ab")  # no sample differs from another
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
    assert len(rows) == 1 and ruler.cells["pi"].seeds == 1
    cell = trec.cells["pi"]
    assert (cell.n, cell.seeds, cell.seeds_sd) == (4, 3, pytest.approx(25 / math.sqrt(3)))
    assert list(cell.scores[0].samples.values()) == pytest.approx([100, 0, 100, 200 / 3])
    text = tables.markdown([trec], rows)
    assert "| pi | **66.7** [" in text and "3 seeds, sd 14.4" in text
    cell = perplexity.cells["pi"]
    assert cell.value == pytest.approx(20 * 6 ** (1 / 3))  # exp of the mean loss
    mean_losses = math.log(cell.value) + 0.2 * np.sin(range(10))
    expected = mean_over_documents(mean_losses, np.ones(10)).interval()
    assert np.log([cell.low, cell.high]) == pytest.approx(expected)


# --- the findings in words
def describe(rows, scores, columns) -> list[str]:
    pairs = correlation.pair_scores(scores, columns)
    seen = findings.describe(columns, correlation.correlations(pairs, rows), target_length(rows))
    return list(filter(None, seen.values()))


OUTCOMES = [(0.9, 0.1, "ahead in"), (0.1, 0.9, "behind in"), (0.5, 0.5, "not told apart in")]


@pytest.mark.parametrize("exact, approximate, expected", OUTCOMES)
def test_groups_are_compared_by_their_samples(tmp_path, exact, approximate, expected):
    answers = {}
    for method, share in (("yarn", exact), ("landmark", approximate)):
        answers[method] = [1.0] * round(20 * share) + [0.0] * round(20 * (1 - share))
    [sentence] = describe(*build_ruler(tmp_path, answers))
    assert sentence == f"{expected} RULER (yarn {100 * exact:.1f}, landmark {100 * approximate:.1f})"


def test_reach_and_relation(study):
    rows, scores, columns = build(study)
    sentences = describe(rows, scores, columns)
    assert len(sentences) == 4
    tuned = columns[1].scores.query("kind == 'fine-tuned'")
    inside = tuned[tuned.length <= 512].value.mean()
    beyond = tuned[tuned.length == 1024].value.mean()
    assert f"fine-tuned methods find {inside:.0f} % of needles up to 512 tokens and {beyond:.0f} %" in sentences[2]
    assert "no clear relation in Needle (ρ = -0.98 [-1.00, 0.98])" in sentences[3]  # the interval includes 0


# --- the paper
NTK = {"base_model": "meta-llama/Llama-2-7b-hf", "original_length": 4096, "trained_length": 32768}
PG19 = {"path": "data/pg19/test.bin", "sha256": "1" * 64, "source": "unverified"}  # a file without a description


def paper_run(root, protocol="lceg"):
    """NTK-32K as the paper ran it, with every benchmark."""
    info = making.info("ntk32", "ntk", 1_008_000_000, **NTK)
    making.perplexity(root, info, 32768, 5.80, data=PG19)
    info["protocol"] = protocol
    published = pd.read_table(paper.FOLDER / "paper.tsv").query("name == 'NTK-32K' and task != 'mean'")
    sets, tasks = (published[published.benchmark == name].task for name in ("longbench", "ruler"))
    answers = making.entry([0.5, 0.25], "ids", "official", run={"max_length": 32768})
    making.sets(root, info, "longbench", dict.fromkeys(sets, answers))
    making.ruler(root, info, 32768, dict.fromkeys(tasks, making.entry([1.0] * 500, "indices", "official")))
    making.needle(root, info, 1000, 50, [1.0], lceg_overlap=0.75, protocol=protocol, data={"source": "official"})
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
    others = [{"base_model": "some/other-7b"}, {"original_length": 8192}, {"trained_tokens": 500_000_000}]
    others += [{"trained_length": 16384}, {"method": "origin"}, {"protocol": "ours"}]
    others += [{"data": PG19 | {"path": "data/mine/test.bin"}}, {"n_windows_total": 3000}, {"sliding_window": 512}]
    info = making.info("ntk32", "ntk", 1_008_000_000, **NTK)
    for i, changes in enumerate([{}, *others]):
        making.perplexity(tmp_path / str(i), info, 32768, 5.80, **{"data": PG19} | changes)
        assert len(compare(tmp_path / str(i))) == (changes == {})
    assert set(compare(paper_run(tmp_path / "ours", protocol="ours")).benchmark) == {"perplexity"}
    assert compare(tmp_path / "0", token_files=()).empty  # perhaps the same books in another order
    with pytest.raises(ValueError, match="--paper_data"):
        compare(tmp_path / "0", token_files=["2" * 64])


def test_further_columns_are_chosen_and_long_ppl_has_its_correlation(tmp_path):
    for name, method, tokens, quality in making.MODELS:
        who = making.info(name, method, tokens)
        making.perplexity(tmp_path, who, 512, 40 - 15 * quality)
        losses = [3 - 2 * quality, 2 - quality]
        result = {"long_ppl": math.exp(np.mean(losses)), "long_ppl_interval_95": None, "n_key_tokens": 80}
        changes = {"document_losses": {"sum": [40 * loss for loss in losses], "targets": [40, 40]}, "last_64": None}
        making.perplexity(tmp_path / "long_ppl", who, 512, 1.0, **result, **changes)
        scores = [1.0] * round(20 * quality) + [0.0] * (20 - round(20 * quality))
        for benchmark, name in (("kv", "standin_kv_40pairs"), ("icl", "standin_icl_5shots"), ("short", "arc_easy")):
            making.sets(tmp_path, who, benchmark, {name: making.entry(scores, "ids")})
    rows, scores, columns = build(tmp_path, ["perplexity", "long_ppl", "kv", "icl", "short"])
    assert [column.head for column in columns[1:3]] == ["LongPPL ↓", "Key-value recall ↑"]
    whats = ["heldout, 512 tokens, 2 documents", "40 pairs", "TREC, 5 examples", "1 task"]
    assert [column.what for column in columns[1:]] == [f"{what}, stand-in data" for what in whats]
    cells = columns[1].cells
    assert cells["ntk"].value == pytest.approx(math.exp((3 - 1.6 + 2 - 0.8) / 2)) and cells["ntk"].n == 80
    assert marks(columns[1])["self_extend (frozen)"] == "best"  # the lowest
    assert columns[2].cells["ntk"].value == 80

    pairs = correlation.pair_scores(scores, columns)
    table = correlation.correlations(pairs, rows).query("methods == 'all methods'").set_index(["measure", "benchmark"])
    assert table.rho["long_ppl", "kv"] == pytest.approx(-1)  # each better model has the lower LongPPL
    figure = correlation.draw(rows, pairs, table.reset_index())
    assert [len(axes.collections) for axes in figure.axes] == [len(rows)] * 6  # two measures, three benchmarks
