"""The heat-maps, read back: from the figure's data, from the pixels of the picture, from the CSV."""

import csv
import json
import subprocess
import sys

import matplotlib.image
import numpy as np
import pytest

import needle_plot
from scoring import wilson

LENGTHS, DEPTHS = (1000, 4256, 7513, 10769), (0, 50, 100)
VALUE_DL = np.array([[1.0, 0.5, 0.0, 0.25], [1.0, 0.75, 0.0, 0.0], [1.0, 1.0, 0.5, 1.0]])
RED, YELLOW, GREEN = (0xF0, 0x49, 0x6E), (0xEB, 0xB8, 0x39), (0x0C, 0xD7, 0x9F)


def write(folder, method="yarn", trained_tokens=1000, value_DL=VALUE_DL, **changes):
    folder.mkdir(parents=True)
    for i, depth in enumerate(DEPTHS):
        for j, length in enumerate(LENGTHS):
            result = {
                "context_length": length,
                "depth_percent": depth,
                "score": value_DL[i, j],
                "rate": 0.0,
                "n": 4,
                "lceg_overlap": value_DL[i, j] * 11 / 12,
                "data": {"source": "standin"},
                "method": method,
                "trained_tokens": trained_tokens,
                "original_length": 4256,
                "trained_length": 8000,
                **changes,
            }
            (folder / f"{folder.name}_len_{length}_depth_{depth * 100}_results.json").write_text(json.dumps(result))
    return folder


@pytest.fixture
def results(tmp_path):
    for name, method, tokens in [("yarn-32k", "yarn", 1000), ("yarn-f", "yarn", 0), ("ntk-f", "ntk_frozen", 0),
                                 ("llama", "base", None)]:  # fmt: skip
        write(tmp_path / "results" / name, method, tokens)
    write(tmp_path / "results" / "llama.old", "base", None)
    return tmp_path / "results"


def figure_of(results, colours="lceg", score="score"):
    return needle_plot.draw(needle_plot.models(needle_plot.read(results, score)), colours, score)


def test_the_figure_holds_the_results(results):
    figure = figure_of(results)
    panels = [axes for axes in figure.axes if axes.images]
    titles = [axes.get_title() for axes in panels]
    assert [title.split("  ")[0] for title in titles] == ["base", "yarn", "ntk (frozen)", "yarn (frozen)"]
    low, high = wilson(VALUE_DL.sum() * 4, 48)
    assert titles[0] == f"base  {VALUE_DL.mean():.2f} [{low:.2f}, {high:.2f}]"
    columns = {round(axes.get_position().x0, 3) for axes in panels}
    assert len(columns) == 3  # and a second row
    for axes in panels:
        image = axes.images[0]
        np.testing.assert_array_equal(image.get_array(), VALUE_DL)
        assert image.get_clim() == (0, 1)
        assert [label.get_text() for label in axes.get_xticklabels()] == ["1k", "4k", "8k", "11k"]
        assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "50", "100"]
        marks = {line.get_linestyle(): line.get_xdata()[0] for line in axes.lines if line.get_color() == "white"}
        assert marks == {":": 1.0, "--": pytest.approx(2 + (8000 - 7513) / (10769 - 7513))}


def test_lengths_outside_the_columns_are_not_marked():
    assert needle_plot.column(64_000, [1000, 4256]) is needle_plot.column(512, [1000, 4256]) is None
    lengths = np.round(np.linspace(1000, 128000, 40))[:20].tolist()
    assert needle_plot.column(32768, lengths) == pytest.approx(9 + (32768 - 30308) / (33564 - 30308))
    assert needle_plot.column(512, [64, 128, 256, 512, 1024]) == 3


def test_the_pixels_have_the_papers_colours(tmp_path):
    figure = figure_of(write(tmp_path / "yarn", original_length=None, trained_length=None))
    axes = figure.axes[0]
    needle_plot.save(figure, tmp_path / "picture")  # at 200 dots an inch
    picture = matplotlib.image.imread(tmp_path / "picture.png")[..., :3] * 255
    scale = 200 / figure.dpi
    for i, row in enumerate(VALUE_DL):
        for j, value in enumerate(row):
            x, y = axes.transData.transform((j + 0.2, i + 0.2)) * scale
            pixel = picture[round(picture.shape[0] - y), round(x)]
            low, high = (RED, YELLOW) if value <= 0.5 else (YELLOW, GREEN)
            part = value * 2 if value <= 0.5 else value * 2 - 1
            expected = np.array(low) * (1 - part) + np.array(high) * part
            np.testing.assert_allclose(pixel, expected, atol=3)
    assert (tmp_path / "picture.svg").read_text().startswith("<?xml")
    assert (tmp_path / "picture.pdf").read_bytes().startswith(b"%PDF")


def test_missing_and_failed_cells_are_grey(results):
    (results / "llama" / "llama_len_1000_depth_0_results.json").unlink()
    failed = results / "llama" / "llama_len_4256_depth_0_results.json"
    failed.write_text(json.dumps(json.loads(failed.read_text()) | {"score": None, "n": 0}))
    cells = needle_plot.models(needle_plot.read(results, "score"))["base"]
    lengths, depths, value_DL = needle_plot.grid(cells)
    assert (tuple(lengths), tuple(depths)) == (LENGTHS, DEPTHS)
    np.testing.assert_array_equal(np.isnan(value_DL), [[True, True, False, False], [False] * 4, [False] * 4])
    assert needle_plot.mean(cells)[0] == pytest.approx((VALUE_DL.sum() - 1.5) / 10)
    [axes, *_] = figure_of(results / "llama").axes
    grey = axes.images[0].cmap(np.ma.masked_invalid([np.nan]))[0]
    np.testing.assert_allclose(grey[:3], 0xDD / 255)


def test_scripts_output(results, tmp_path):
    write(results / "yarn-64k")
    (results / "llama" / "cut_results.json").write_text('{"context_length": 10')
    (results / "llama" / "other_results.json").write_text('{"model_response": "a", "score": 3.2}')
    script = [sys.executable, needle_plot.__file__, "--output_dir", tmp_path / "img"]
    done = subprocess.run([*script, "--results", results], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    left_out = [line for line in done.stdout.splitlines() if line.startswith("left out: ")]
    assert len(left_out) == 2 and "cut_results.json" in left_out[0] and "other_results.json" in left_out[1]
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert rows[0] == "| model | 1k | 4k | 8k | 11k | all |"
    assert rows[1].startswith("| base | 1.00 | 0.75 | 0.17 | 0.42 | 0.58 [0.44, 0.71] |")
    assert [row.split(" | ")[0] for row in rows[2:]] == [
        "| yarn, yarn-32k", "| yarn, yarn-64k", "| ntk (frozen)", "| yarn (frozen)"]  # fmt: skip
    with (tmp_path / "img" / "needle.csv").open() as file:
        table = list(csv.DictReader(file))
    assert len(table) == 5 * 12
    cell = next(row for row in table if (row["test"], row["length"], row["depth"]) == ("llama", "4256", "50"))
    assert (float(cell["value"]), cell["n"], cell["method"], cell["kind"]) == (0.75, "4", "base", "score")
    assert [float(cell["low"]), float(cell["high"])] == pytest.approx(wilson(3, 4))
    made = {path.relative_to(tmp_path / "img").as_posix() for path in (tmp_path / "img").rglob("*.png")}
    assert made == {
        "needle.png",
        *(f"needle/{name}.png" for name in ("llama", "ntk-f", "yarn-32k", "yarn-64k", "yarn-f")),
    }

    other = subprocess.run([*script, "--results", results, "--score", "lceg_overlap", "--colours", "cividis"],
                           capture_output=True, text=True)  # fmt: skip
    assert other.returncode == 0 and "| base | 0.92 | 0.69 | 0.15 | 0.38 |" in other.stdout
    nothing = subprocess.run([*script, "--results", tmp_path / "img"], capture_output=True, text=True)
    assert nothing.returncode == 1 and nothing.stderr.startswith("error: no needle results in")
    assert nothing.stderr.count("\n") == 1
