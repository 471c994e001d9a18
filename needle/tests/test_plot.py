"""The heat-maps, read back from the figure."""

import json
import sys

from run import read_json, write_json

import numpy as np
import pandas as pd
import pytest

import needle_plot

LENGTHS, DEPTHS = (1000, 4256, 7513, 10769), (0, 50, 100)
VALUE_DL = np.array([[1.0, 0.5, 0.0, 0.25], [1.0, 0.75, 0.0, 0.0], [1.0, 1.0, 0.5, 1.0]])
LCEG_COLOURS = [(0xF0, 0x49, 0x6E), (0xEB, 0xB8, 0x39), (0x0C, 0xD7, 0x9F)]  # at 0, 1/2 and 1


def write(folder):
    for (i, j), value in np.ndenumerate(VALUE_DL):
        result = {"context_length": LENGTHS[j], "depth_percent": DEPTHS[i], "score": value}
        result |= {"data": {"source": "standin"}, "original_length": 4256, "trained_length": 8000}
        write_json(folder / f"len_{LENGTHS[j]}_depth_{DEPTHS[i] * 100}_results.json", result)


def test_the_figure_shows_the_results(tmp_path):
    for name in ("a", "b", "c/d", "a/old"):
        write(tmp_path / name)
    (tmp_path / "a" / "len_1000_depth_0_results.json").unlink()
    failed = tmp_path / "a" / "len_4256_depth_0_results.json"
    write_json(failed, read_json(failed) | {"score": None})
    figure = needle_plot.draw(needle_plot.read_cells(tmp_path, "score"), "score")
    panels = [axes for axes in figure.axes if axes.images]
    means = [(VALUE_DL.sum() - 1.5) / 10, VALUE_DL.mean(), VALUE_DL.mean()]
    titles = [f"{name}  {mean:.2f}" for name, mean in zip("abd", means, strict=True)]
    assert [axes.get_title() for axes in panels] == titles
    for axes in panels:
        image = axes.images[0]
        missing_DL = np.ma.getmaskarray(image.get_array())
        assert missing_DL.sum() == (2 if axes is panels[0] else 0)
        np.testing.assert_array_equal(image.get_array()[~missing_DL], VALUE_DL[~missing_DL])
        colours = [image.cmap(value)[:3] for value in (np.nan, 0.0, 0.5, 1.0)]
        np.testing.assert_allclose(np.array(colours) * 255, [(0xDD,) * 3, *LCEG_COLOURS], atol=1.5)
        assert image.get_clim() == (0, 1)
        marks = {line.get_linestyle(): line.get_xdata()[0] for line in axes.lines}
        assert marks == {":": 1.0, "--": pytest.approx(2 + (8000 - 7513) / (10769 - 7513))}


ODD = [
    {"score": "x"},
    {"score": float("nan")},
    {"score": 3.2},
    {"context_length": "x"},
    {"context_length": None},
    {"depth_percent": [5]},
    {"original_length": "x"},
    {"data": 5},
    {"data": {"source": None}},
    None,  # a file that was cut off
]


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_file_is_named_and_left_out(tmp_path, capsys, odd):
    write(tmp_path / "a")
    cells = needle_plot.read_cells(tmp_path, "score")
    good = read_json(tmp_path / "a" / "len_1000_depth_0_results.json")
    path = tmp_path / "b_results.json"
    path.write_text(json.dumps(good | odd) if odd else '{"context_length": 10')
    pd.testing.assert_frame_equal(needle_plot.read_cells(tmp_path, "score"), cells)
    assert capsys.readouterr().out.startswith(f"left out: {path} is not a needle result")


def test_command(tmp_path, monkeypatch, capsys):
    results, pictures = tmp_path / "results", tmp_path / "img"
    for name in ("llama", "$x^{"):
        write(results / name)
    monkeypatch.setattr(sys, "argv", f"needle_plot.py --output_dir {pictures} --results {results}".split())
    needle_plot.main()
    out = capsys.readouterr().out
    assert f"llama    {VALUE_DL.mean():.2f}" in out
    assert {path.name for path in pictures.iterdir()} == {f"needle.{ending}" for ending in ("png", "svg", "pdf")}
    with pytest.raises(ValueError, match="no needle results with 'score' in"):
        needle_plot.read_cells(pictures, "score")
    write(results / "other" / "llama")
    with pytest.raises(ValueError, match="rename one"):
        needle_plot.read_cells(results, "score")
