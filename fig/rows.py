"""From models to the rows of Table 1: groups, labels and colours."""

from collections import defaultdict
from itertools import cycle
from operator import attrgetter
from pathlib import Path

import pandas as pd

from scores import Score, merge_seeds

# the palette of Okabe and Ito, for colour-blind readers; the markers serve black and white
STYLES = pd.read_table(Path(__file__).with_name("methods.tsv"), index_col="method").T
SPARE_COLORS = ("#44AA99", "#AA4499", "#999933", "#332288")  # for methods of your own
SPARE_MARKERS = ("p", "*", "8", "H", "d")  # for them, and where one method has several rows
ATTENTION = {True: "exact attention", False: "approximate attention", None: "attention unknown"}


class Row:
    """A method as it was extended: models that differ in their training seed only.

    method: without "_frozen".  kind: "base", "frozen" (extended without training) or "fine-tuned".
    group: the heading in Table 1, where rows are sorted by `order`.  info: collect.MODEL_KEYS of the first model.
    window, length: the length that the base was trained at, that it was extended to, tokens; 0 if unknown.
    """

    def __init__(self, info: dict):
        self.info = info
        self.models = []
        self.method = info["method"].removesuffix("_frozen")
        self.label = self.method
        self.kind = "fine-tuned"
        if info["trained_tokens"] == 0:
            self.kind = "frozen"
            self.label += " (frozen)"
        attention = info["exact_attention"]
        self.group = f"{ATTENTION[attention]}, {self.kind}"
        if self.method == "base":
            self.kind = self.group = self.label = "base"
        self.window = info["original_length"] or 0
        self.length = info["trained_length"] or 0
        place = list(ATTENTION).index(attention)
        self.order = (self.kind != "base", place, self.kind != "frozen", self.label, self.length, self.models)


def short(length: float) -> str:
    """A number of tokens as people say it: 512, 2k, 32k; 62872 is 63k."""
    if length < 1024:
        return f"{length:g}"
    if length % 1024 == 0:
        return f"{length / 1024:g}k"
    return f"{length / 1000:.0f}k"


def source_names(scores) -> str:
    """official, stand-in, ..."""
    names = sorted(set(scores.source))
    return ", ".join(names).replace("standin", "stand-in")


def make_rows(results) -> list[Row]:
    """The rows in the order of Table 1. Models of one set-up trained with different seeds share a row."""
    rows = {}  # by set-up
    seen = set()  # (set-up, training seed)
    for model, info in sorted(results.models.items()):
        row = Row(info)
        seed = info["training_seed"]
        base = Path(info["base_model"] or "").name
        setup = (info["method"], base, row.window, row.length, info["trained_tokens"])
        is_trained = row.kind == "fine-tuned" and seed is not None
        if not is_trained or (setup, seed) in seen:
            setup = model  # a row of its own: not trained, or trained by another recipe, which results do not state
        seen.add((setup, seed))
        rows.setdefault(setup, row).models.append(model)
    rows = sorted(rows.values(), key=attrgetter("order"))
    add_to_labels(rows, lambda row: f" {short(row.length)}")
    add_to_labels(rows, lambda row: f", {row.models[0]}")
    styles = STYLES.to_dict("list")
    spare_styles = zip(cycle(SPARE_COLORS), cycle(SPARE_MARKERS), strict=False)
    used = set()
    for row in rows:
        if row.method not in styles:
            styles[row.method] = next(spare_styles)
        row.color, row.marker = styles[row.method]
        for marker in SPARE_MARKERS:  # another length or recipe of a method has another marker
            if (row.method, row.kind, row.marker) in used:
                row.marker = marker
        used.add((row.method, row.kind, row.marker))
    return rows


def add_to_labels(rows, describe) -> None:
    """Adds describe(row) to the labels of rows with one label, where it tells them apart."""
    groups = defaultdict(list)
    for row in rows:
        groups[row.label].append(row)
    for group in groups.values():
        texts = set(map(describe, group))
        if len(texts) > 1:
            for row in group:
                row.label += describe(row)


def make_frame(rows, results) -> pd.DataFrame:
    """The scores of all rows that have a value, a line each. Of a task with several sources of data only the first.

    Columns: the fields of the Score, here in %, the Score itself (of training seeds: their mean), and its row.
    """
    lines = []
    for row in rows:
        groups = defaultdict(list)
        for score in results.scores:
            if score.model in row.models and score.value is not None:
                groups[score.key].append(score)
        for seeds in groups.values():
            score = merge_seeds(seeds)
            lines.append(vars(score) | {"row": row, "label": row.label, "kind": row.kind, "score": score})
    columns = [*Score.__dataclass_fields__, "row", "label", "kind", "score"]
    frame = pd.DataFrame(lines, columns=columns)
    frame = frame.astype({"length": float, "value": float, "low": float, "high": float})
    frame.loc[frame.benchmark == "needle", ["value", "low", "high"]] *= 100
    first_source = frame.groupby(["benchmark", "task"]).source.transform("min")
    is_first = frame.source == first_source
    for task, source in frame[~is_first].groupby(["task", "source"]).groups:
        note = "are in results.csv only; the others are on other data"
        results.warnings.append(f"{task}: results on {source} data {note}")
    return frame[is_first]


def target_length(rows) -> int:
    """The commonest trained length (of frozen rows, or the original one, if there is none); 0 if unknown."""
    extended = {"base": [], "frozen": [], "fine-tuned": []}
    for row in rows:
        if row.length > row.window:
            extended[row.kind].append(row.length)
    windows = [row.window for row in rows]
    lengths = extended["fine-tuned"] or extended["frozen"] or windows
    return pd.Series(lengths).mode().max()


def nearest(lengths, target):
    """The target if it was measured, else the longest length below it, else the shortest."""
    shorter = lengths[lengths <= target]
    return shorter.max() if len(shorter) else lengths.min()
