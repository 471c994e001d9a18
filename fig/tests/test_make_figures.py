"""The script as a user runs it: files, figures read back, the report in a parser and in a browser."""

import csv
import html.parser
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import pytest

import heatmaps
import making
import plots
import relations
import tables
from collect import collect
from rows import make_rows, target_length

SCRIPT = Path(plots.__file__).with_name("make_figures.py")
FIGURES = {
    "perplexity", "position", "needle_grid", "many_shot", "longbench", "ruler", "ruler_tasks", "correlation", "costs",
}  # fmt: skip
SECTIONS = {"warnings", "table1", "figures", "correlation", "paper", "run", "costs", "files"}


def run(results, output, *more):
    command = [sys.executable, SCRIPT, "--results", *results, "--output_dir", output, *more]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Four methods; one of their results is cut off."""
    root = making.study(tmp_path_factory.mktemp("small"), making.MODELS[:2] + making.MODELS[4:6], (128, 512), n=8)
    (root / "results" / "cut.json").write_text('{"val_perplexity": 1.0, "seq_')
    (root / "failed.txt").write_text("ruler of m_pi_512 at 512 tokens\n\n")
    return root


@pytest.fixture(scope="module")
def made(small):
    results = [small / name for name in ("results", "needle", "longbench", "ruler", "gone")]
    done = run(results, small / "out", "--checkpoints", small / "ckpts", "--failures", small / "failed.txt")
    assert done.returncode == 0, done.stderr
    return small / "out", done.stdout


def test_files_tables_and_what_is_printed(made):
    output, printed = made
    names = {path.name for path in output.iterdir()}
    figures = {f"{name}.{ending}" for name in FIGURES for ending in ("png", "svg")}
    written = {"results.csv", "costs.csv", "correlation.csv", "perplexity.csv", "table1.csv", "table1.md", "table1.tex"}
    assert names == figures | written | {"report.html"}
    lines = printed.splitlines()
    assert sum("cut.json is no whole result" in line for line in lines) == 1
    assert "| model | 128 | 512 |" in lines and "| base | 25.00 / 27.50 | 35.50 / 39.05 |" in lines
    assert (output / "table1.md").read_text() in printed and "standin data" in printed
    for name in ("perplexity", "needle_grid"):
        image = matplotlib.image.imread(output / f"{name}.png")
        assert image.shape[1] > 1200 and 0.5 < image[..., :3].mean() < 0.999  # drawn on, and not blank
    with (output / "perplexity.csv").open() as file:
        table = list(csv.DictReader(file))
    assert len(table) == 8 and {row["source"] for row in table} == {"standin"}
    assert (float(table[0]["mean"]), table[0]["mean_interval"]) == (25, "[23.75, 26.25]")


def test_costs_are_what_was_recorded(made):
    with (made[0] / "costs.csv").open() as file:
        table = list(csv.DictReader(file))
    [training] = [row for row in table if (row["model"], row["step"]) == ("m_ntk_512", "training")]
    assert (training["seconds"], training["tokens_per_second"], training["devices"]) == ("4.0", "250.0", "")
    assert int(training["peak_memory_bytes"]) == 1 << 29
    [cost] = [row for row in table if (row["model"], row["step"], row["length"]) == ("base", "perplexity", "512")]
    assert cost["tokens_per_second"] == "3000.0"


def test_device_hours_only_where_devices_are_recorded():
    from costs import training

    line = {"tokens_seen": 7200, "tokens_per_second": 2.0, "peak_memory_gib": 1.0}
    assert training(json.dumps(line) + "\n").device_hours is None
    second = line | {"tokens_seen": 10800, "tokens_per_second": 1.0, "devices": 8, "device": "H100"}
    both = training(json.dumps(line) + "\n" + json.dumps(second) + "\n" + '{"cut')
    assert both.seconds == 7200 and both.device_hours == 16 and both.tokens_per_second == 1.5


def test_nothing_to_show(tmp_path):
    for results in ([tmp_path], [tmp_path / "none"]):
        done = run(results, tmp_path / "out")
        assert done.returncode == 1 and done.stderr.startswith("error: no "), done.stderr
        assert done.stderr.count("\n") == 1 and not (tmp_path / "out").exists()


def test_one_stage_alone_is_enough(tmp_path):
    """The old command: perplexity results only."""
    for length in (64, 128):
        changes = {"val_perplexity": None, "perplexity_interval_95": None, "last_64": None} if length == 64 else {}
        making.perplexity(tmp_path, making.facts("base", "base", None), length, 20.0, **changes)
    done = run([tmp_path / "results"], tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "| base | – / – | 20.00 / 22.00 |" in done.stdout
    page = (tmp_path / "out" / "report.html").read_text()
    assert "No number: perplexity of base at 64" in page and "No run here has the paper" in page


# --------------------------------------------------------------------------- what is drawn
@pytest.fixture(scope="module")
def rows(study):
    return make_rows(collect([study / name for name in ("results", "needle", "longbench", "ruler")]))


def lines_of(figure, panel, label):
    [line] = [line for line in figure.axes[panel].lines if line.get_label() == label]
    return list(zip(*(axis.tolist() for axis in line.get_data()), strict=True))


def test_curves_are_the_results(rows):
    [many] = plots.many_shot(rows, 512)
    ntk = next(row for row in rows if row.label == "ntk")
    expected = [(k, ntk.get("trec", "standin_trec", k).value) for k in (1, 5, 10)]
    assert lines_of(many.figure, 0, "ntk") == expected
    band = next(c for c in many.figure.axes[0].collections if c.get_facecolor()[0][:3].tolist() != [0, 0, 0])
    assert band.get_paths()[0].get_extents().y1 <= 100
    frozen = {line.get_label() for line in many.figure.axes[1].lines}
    assert frozen == {"base", "ntk", "self_extend"}  # the base in both; trained methods in the other panel
    assert "with 10 examples self_extend (frozen) has 90.0 [82.0, 98.0]; the base has 30.0 [22.0, 38.0]" in many.caption

    [length, position] = plots.perplexity(rows, 512)
    assert lines_of(length.figure, 0, "pi") == [(128, 25.0), (512, 33.25), (1024, 33.25)]
    assert lines_of(length.figure, 1, "pi")[1] == (512, pytest.approx(33.25 * 1.1))
    assert length.caption == (
        "Over whole windows of 512 tokens the lowest perplexity: self_extend (frozen) has 26.5 [25.2, 27.8]; the base "
        "has 35.5 [33.7, 37.3]."
    )
    assert lines_of(position.figure, 0, "pi")[-1] == (1023, pytest.approx(33.25 * (2 - 1023 / 1024)))
    [ruler] = plots.ruler(rows, 512)
    assert [x for x, _ in lines_of(ruler.figure, 0, "ntk")] == [128, 512, 1024]
    plots.plt.close("all")


def test_heat_maps_are_the_results(rows):
    [needle] = heatmaps.needle(rows, 512)
    ntk = next(i for i, row in enumerate(rows) if row.label == "ntk")
    shown = needle.figure.axes[ntk].images[0].get_array()
    assert shown.shape == (3, 3)
    assert shown[1, 2] == 100 * rows[ntk].get("needle", "passkey", 1024, "depth 50").value
    assert needle.figure.axes[ntk].get_title() == "ntk"
    [tasks] = heatmaps.ruler(rows, 512)
    assert tasks.figure.axes[0].images[0].get_array()[ntk, 2] == rows[ntk].get("ruler", "vt", 512).value
    [sets] = heatmaps.longbench(rows, 512)
    names = [label.get_text() for label in sets.figure.axes[0].get_xticklabels()]
    assert names == ["hotpotqa", "lcc", "qasper", "code", "multi-document QA", "single-document QA"]
    plots.plt.close("all")


def test_correlation_is_over_methods_and_lengths(rows):
    columns = tables.columns_of(rows, target_length(rows))
    tables.fill(columns, rows, lambda row, column: None)
    table = relations.correlations(rows, columns)
    found = {(line["benchmark"], line["methods"], line["length"]): line for line in table}
    assert found["needle", "all methods", "all lengths"]["n_points"] == 21
    assert found["needle", "all methods", "512"]["n_methods"] == 7
    assert found["trec", "all methods", "512"]["rho"] < -0.8 and ("trec", "all methods", "128") not in found
    assert found["ruler", "exact attention, fine-tuned", "512"]["rho"] is None  # three methods
    # at the original length all have one perplexity: there is nothing to rank
    assert found["ruler", "all methods", "128"]["rho"] is None


# --------------------------------------------------------------------------- the report
class Page(html.parser.HTMLParser):
    VOID = {"meta", "link", "br", "img", "hr", "input", "path", "use"}

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.text = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.links += [attrs[key] for key in ("href", "src", "srcset", "xlink:href") if key in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_report_is_whole_and_stands_alone(made):
    output, _ = made
    text = (output / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == [] and len(page.ids) == len(set(page.ids))
    assert SECTIONS <= set(page.ids) and {f"figure-{name}" for name in FIGURES} <= set(page.ids)
    for link in page.links:
        if link.startswith("#"):
            assert link[1:] in page.ids, link
        elif not link.startswith("data:"):
            assert not re.match(r"\w+:|//|/", link) and (output / link).exists(), link
    assert not re.search(r"https?://|@import|<script", text) and "url(" not in re.sub(r"url\(#", "", text)
    assert text.count("<svg") == len(FIGURES) and "prefers-color-scheme: dark" in text and "@media print" in text
    said = " ".join(page.text)
    for warning in ("Stand-in data in Perplexity", "Failed: ruler of m_pi_512", "cut.json is no whole result",
                    "no folder", "Few samples", "One training seed"):  # fmt: skip
        assert warning in said.split("Table 1")[0], warning
    assert "python some.py --model_path ../run/ckpts/m_ntk_512" in said and "learning_rate" in said
    # what follows the theme is never black or white itself
    assert "#000000" not in text and "fill: var(--ink)" in text


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


def browse(page, *more):
    """(the page as the browser has it, what its console said)."""
    root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    command = [CHROMIUM, "--headless=new", "--disable-gpu", *root, "--enable-logging=stderr", *more, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return done.stdout, [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here to open the report in (Debian: apt install chromium)")
def test_report_opens_in_a_browser(made, tmp_path):
    """Every section and figure is laid out with a size, and the console stays silent; that it would not be for an
    error is tried with a page that has one."""
    text = (made[0] / "report.html").read_text(encoding="utf-8")
    probe = """<script>
      const sizes = [...document.querySelectorAll("section, figure svg")].map(e => e.getBoundingClientRect());
      document.body.dataset.seen = sizes.filter(r => r.width > 200 && r.height > 30).length + "/" + sizes.length;
      document.body.dataset.wide = document.documentElement.scrollWidth;
    </script>"""
    (tmp_path / "report.html").write_text(text.replace("</body>", probe + "</body>"), encoding="utf-8")
    dom, console = browse(tmp_path / "report.html", "--window-size=500,900", "--hide-scrollbars", "--dump-dom")
    assert console == []
    for section in SECTIONS:
        assert f'id="{section}"' in dom, section
    every = len(SECTIONS) + len(FIGURES)
    assert f'data-seen="{every}/{every}"' in dom and 'data-wide="500"' in dom  # nothing makes a phone scroll sideways
    (tmp_path / "bad.html").write_text("<script>nothing_like_this()</script>")
    assert len(browse(tmp_path / "bad.html", "--dump-dom")[1]) == 1


def test_captions_where_nothing_differs():
    same = [("fwe", {"a": 0.0, "b": 0.0}), ("vt", {"a": 5.0})]
    assert heatmaps.spread_of(same) == "nothing sets the methods apart: in fwe 0.0 % for each"
    apart = [*same, ("cwe", {"a": 2.0, "b": 7.5})]
    assert heatmaps.spread_of(apart) == "cwe sets the methods apart most: b has 7.5 %, a 2.0 %"
