"""The script as a user runs it: files, what the figures show, the report."""

import re
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

import correlation
import make_figures
import making
import plots
import tables
from lock import lock
from rows import STYLES

FIGURES = {"perplexity", "needle_grid", "many_shot", "longbench", "ruler", "ruler_tasks", "correlation"}
TABLES = {"results.csv", "costs.csv", "correlation.csv", "table1.md", "table1.tex", ".lock"}


def run(monkeypatch, *flags):
    monkeypatch.setattr(sys, "argv", ["make_figures.py", *map(str, flags)])
    make_figures.main()


def test_a_study_becomes_tables_figures_and_a_report_that_stands_alone(tmp_path, monkeypatch, capsys):
    root, output = tmp_path / "study", tmp_path / "out"
    making.study(root, making.MODELS[:2] + making.MODELS[4:6], (128, 512), n=8)
    (root / "results" / "cut.json").write_text('{"val_perplexity": 1.0, "seq_')
    (root / "failed.txt").write_text("ruler of m_pi_512 at 512 tokens\n\n")
    flags = ["--checkpoints", root / "ckpts", "--failures", root / "failed.txt", "--output_dir", output]
    output.mkdir()
    (output / "other.md").touch()  # not the study's
    run(monkeypatch, "--results", root, root / "gone", *flags)
    printed = capsys.readouterr().out
    figures = {f"{name}.{ending}" for name in FIGURES for ending in ("png", "svg")}
    assert {path.name for path in output.iterdir()} == figures | TABLES | {"report.html", "other.md"}
    assert printed.count("cut.json is not a complete result") == 1 and (output / "table1.md").read_text() in printed
    costs = pd.read_csv(output / "costs.csv").set_index(["method", "step"])
    training = costs.loc["ntk", "training"]  # the sum over the lines of metrics.jsonl
    assert (training.hours, training.peak_gib) == (pytest.approx(4 / 3600), 0.5)
    assert costs.hours["base", "evaluations"] > 0 and len(costs) == 2 * 4 - 2

    text = (output / "report.html").read_text(encoding="utf-8")
    links = re.findall(r'(?:href|src)="([^"]*)"', text)
    assert "other.md" not in text and TABLES - {".lock"} <= set(links)
    assert "http:" not in text and "https:" not in text and "<script" not in text
    assert sum(link.startswith("data:image/svg+xml;base64,") for link in links) == len(FIGURES)
    assert all(link.startswith("data:") or (output / link).exists() for link in links)
    first_screen = text.split("Table 1</h2>")[0]
    for warning in ("Stand-in data in Perplexity", "Failed: ruler of m_pi_512", "cut.json", "no folder", "Few samples"):
        assert warning in first_screen
    assert "python some.py --model_path ../run/ckpts/m_ntk_512" in text and "learning_rate" in text


def test_one_model_is_enough_and_nothing_at_all_is_an_error(tmp_path, monkeypatch):
    base = making.info("base", "base", None)
    making.perplexity(tmp_path, base, 32, 20.0, val_perplexity=None, perplexity_interval_95=None)
    making.perplexity(tmp_path, base, 64, 20.0)
    making.ruler(tmp_path, base, 128, {"vt": making.entry([1.0], "indices")})
    run(monkeypatch, "--results", tmp_path, "--output_dir", tmp_path / "out")
    assert {path.stem for path in tmp_path.glob("out/*.png")} == {"perplexity", "ruler", "ruler_tasks"}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "No number: perplexity of base at 32" in page and "No run here has the paper" in page
    assert "seed" not in page.split("Table 1</h2>")[0]  # nothing was trained
    with pytest.raises(ValueError, match="no results in"):
        run(monkeypatch, "--results", tmp_path / "none", "--output_dir", tmp_path / "none_out")
    assert not (tmp_path / "none_out").exists()
    assert tables.latex([], []) == ""  # only results that are in no column, such as LongBench-E


def test_names_in_results_are_text_everywhere(tmp_path, monkeypatch):
    """Not a formula in CSV, nor a cell or tag in Markdown and HTML, nor a command in LaTeX."""
    name = "=1|<b>\n$\\x\ud800"
    data = {"path": f"../{name}/test.bin", "source": "standin"}
    for who in (making.info("base", "base", None), making.info("m", name, 5, command=name)):
        making.perplexity(tmp_path, who, 512, 20.0, data=data)
    run(monkeypatch, "--results", tmp_path, "--output_dir", tmp_path / "out")
    table = pd.read_csv(tmp_path / "out" / "results.csv")
    assert set(table.method) == {"base", "'=1|<b> $\\x "} and set(table.task) == {"'=1|<b> $\\x "}
    markdown, latex, page = [
        (tmp_path / "out" / file).read_text() for file in ("table1.md", "table1.tex", "report.html")
    ]
    rows = [line for line in markdown.splitlines() if r"=1\|\<b\> \$\\x" in line]
    assert len(rows) == 2 and all(len(re.findall(r"(?<!\\)\|", row)) == 3 for row in rows)
    assert r"=1|<b> \$\textbackslash " in latex and r"\x" not in latex
    assert "<b>" not in page and "=1|&lt;b&gt;" in page


def test_a_second_run_in_the_same_folder_waits(tmp_path):
    making.perplexity(tmp_path, making.info("base", "base", None), 64, 20.0)
    held = lock(tmp_path / "out" / ".lock")
    command = [sys.executable, make_figures.__file__, "--results", tmp_path, "--output_dir", tmp_path / "out"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as second:
        assert any("waiting until it ends" in line for line in second.stderr), "it ended without waiting"
        assert not (tmp_path / "out" / "results.csv").exists()
        held.close()
    assert second.returncode == 0 and (tmp_path / "out" / "report.html").exists()


def test_lines_and_heat_maps_show_the_results(study):
    rows, scores, _ = making.build(study)
    panels = {}
    for name, (draw, benchmark) in plots.FIGURES.items():
        panels[name] = draw(rows, scores[scores.benchmark == benchmark], 512).axes

    def lines(name, panel):
        return {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in panels[name][panel].lines}

    def values(query):
        return scores.query(query).sort_values("length").value.tolist()

    accuracy = values("benchmark == 'trec' and label == 'ntk'")
    assert lines("many_shot", 0)["ntk"] == list(zip([1, 5, 10], accuracy, strict=True))
    assert {"base", "ntk (frozen)", "self_extend (frozen)"} == {*lines("many_shot", 1)}
    assert lines("perplexity", 0)["pi"] == [(128, 25.0), (512, 33.25), (1024, 33.25)]
    assert lines("perplexity", 2)["pi"][1] == (512, pytest.approx(33.25 * 1.1))
    ntk = [row.label for row in rows].index("ntk")
    found = panels["needle_grid"][ntk].images[0].get_array()
    assert found.shape == (3, 3) and found[1, [2]] == values("label == 'ntk' and length == 1024 and part == 'depth 50'")
    shown = panels["ruler_tasks"][0].images[0].get_array()
    assert shown[ntk, [2]] == values("task == 'vt' and label == 'ntk' and length == 512")
    at_one_length = scores.query("benchmark == 'trec' and length == 5")
    [panel] = plots.draw_many_shot(rows, at_one_length, 512).axes
    drawn = [list(line.get_xdata()) for line in panel.lines if line.get_ydata()[0] == "ntk"]
    [score] = at_one_length[at_one_length.label == "ntk"].itertuples()
    assert drawn == [[score.low, score.high], [score.value]]
    plots.plt.close("all")


def check_x_labels(panel):
    """Several are shown and none overlaps another."""
    panel.figure.canvas.draw()
    low, high = panel.get_xlim()
    shown = [label for label in panel.get_xticklabels() if low <= label.get_position()[0] <= high]
    boxes = sorted((label.get_window_extent() for label in shown), key=lambda box: box.x0)
    assert len(boxes) > 1 and all(left.x1 < right.x0 for left, right in pairwise(boxes))
    plots.plt.close(panel.figure)


@pytest.mark.parametrize("ratio", [2, 8, 40, 300, 1e6])
def test_labels_of_a_log_axis_do_not_overlap(ratio):
    _, [[panel]] = plots.draw_grid(1, 1, 2.6, 3, "")
    panel.set(xscale="log", xlim=(14, 14 * ratio))
    plots.plain_log_axis(panel.xaxis)
    check_x_labels(panel)


def test_a_study_of_many_methods_can_be_read(tmp_path):
    """The paper's 15 numbers of examples, seven methods of one's own, one method at two lengths."""
    numbers = (1, 5, 10, 25, 50, 75, 100, 200, 300, 400, 500, 625, 750, 875, 1000)
    sets = {f"trec_{k}shots": making.entry([1.0, 0.0], "ids") for k in numbers}
    infos = [making.info("m2", "yarn", 5, trained_length=1024)]
    for i, method in enumerate(["base", *STYLES, *(f"own{i}" for i in range(7))]):
        infos.append(making.info(f"{method}_1", method, 5 if i else None))
    for who in infos:
        making.sets(tmp_path, who, "trec", sets)
        making.perplexity(tmp_path, who, 512, 20.0)
    rows, scores, columns = making.build(tmp_path)
    assert len({(row.color, row.marker) for row in rows}) == len(rows) == 26
    pairs = correlation.pair_scores(scores, columns)
    figures = [plots.draw_many_shot(rows, scores[scores.benchmark == "trec"], 512)]
    figures.append(correlation.draw(rows, pairs, correlation.correlations(pairs, rows)))
    assert "dotted" not in figures[0].get_suptitle()  # its lengths are numbers of examples
    for figure in figures:
        check_x_labels(figure.axes[0])
        for legend in (*figure.legends, *filter(None, [panel.get_legend() for panel in figure.axes])):
            box = legend.get_window_extent()
            assert box.y0 >= 0 and box.y1 <= figure.bbox.y1, "the legend is cut off"


def test_correlations_are_over_methods_within_a_length(study):
    rows, scores, columns = making.build(study)
    pairs = correlation.pair_scores(scores, columns)
    table = correlation.correlations(pairs, rows).set_index(["benchmark", "methods", "length"]).sort_index()
    assert table.n_points["needle", "all methods", "mean of lengths"] == 21
    assert table.n_methods["needle", "all methods", "512"] == 7
    assert table.rho["trec", "all methods", "512"] < -0.8 and ("trec", "all methods", "128") not in table.index
    assert np.isnan(table.rho["ruler", correlation.EXACT, "512"])  # three methods
    assert np.isnan(table.rho["ruler", "all methods", "128"])  # all have one perplexity at the original length
    mean = table.loc["ruler", "all methods", "mean of lengths"]
    assert mean.rho == table.rho["ruler", "all methods"][["512", "1024"]].mean() and mean.low < mean.rho < mean.high
    titles = [axes.get_title() for axes in correlation.draw(rows, pairs, table.reset_index()).axes]
    assert f"RULER\nρ = {mean.rho:.2f} [{mean.low:.2f}, {mean.high:.2f}]" in titles
