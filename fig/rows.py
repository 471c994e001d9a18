"""From models to the rows of Table 1: groups, labels, colours, and means over training seeds, sets and lengths."""

import itertools
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from collect import Results
from scores import PERPLEXITIES, Score, set_interval, with_value

# the palette of Okabe and Ito, for colour-blind readers; the markers serve black and white
STYLE = {
    "base": ("#000000", "o"),
    "origin": ("#7f7f7f", "s"),
    "pi": ("#E69F00", "^"),
    "ntk": ("#0072B2", "D"),
    "yarn": ("#009E73", "v"),
    "clex": ("#CC79A7", "P"),
    "longlora": ("#D55E00", "X"),
    "landmark": ("#882255", "h"),
    "lm_infinite": ("#56B4E9", "<"),
    "self_extend": ("#661100", ">"),
    "abf": ("#117733", "s"),
    "llama3": ("#CC6677", "D"),
    "longrope": ("#6699CC", "^"),
    "drope": ("#DDCC77", "v"),
    "streaming": ("#004488", "P"),
    "rerope": ("#BB5566", "X"),
    "string": ("#997700", "h"),
    "dca": ("#888888", "<"),
}
SPARE_STYLES = [("#44AA99", "p"), ("#AA4499", "*"), ("#999933", "8"), ("#332288", "H")]  # for methods of your own
ATTENTION = {True: "exact attention", False: "approximate attention", None: "attention unknown"}


@dataclass
class Row:
    """A method as it was extended.

    method: without "_frozen".  kind: "base", "frozen" (extended without training) or "fine-tuned".
    info: collect.MODEL_KEYS.  models: they differ in their training seed only.
    """

    method: str
    kind: str
    info: dict
    models: list[str]
    label: str = ""
    color: str = ""
    marker: str = ""

    @property
    def group(self) -> str:
        """The heading in Table 1."""
        return "base" if self.kind == "base" else f"{ATTENTION[self.info['exact_attention']]}, {self.kind}"

    @property
    def length(self) -> int:
        """The length that it was extended to, tokens; 0 if unknown."""
        return self.info["trained_length"] or 0

    @property
    def order(self) -> tuple:
        """Rows of Table 1 are sorted by this."""
        attention = list(ATTENTION).index(self.info["exact_attention"])
        return self.kind != "base", attention, self.kind != "frozen", self.label, self.length, self.models


def short(length: float) -> str:
    """A number of tokens as people say it: 512, 2k, 32k; 62872 is 63k."""
    if length < 1024:
        return f"{length:g}"
    return f"{length / 1024:g}k" if length % 1024 == 0 else f"{length / 1000:.0f}k"


def source_names(sources) -> str:
    """official, stand-in, ..."""
    return ", ".join(sorted(set(sources))).replace("standin", "stand-in")


def make_rows(results: Results) -> list[Row]:
    """The rows in the order of Table 1. Models of one set-up trained with different seeds share a row."""
    rows = {}  # by set-up
    seen = set()  # (set-up, training seed)
    for model, info in sorted(results.models.items()):
        frozen, seed = info["trained_tokens"] == 0, info["training_seed"]
        kind = "base" if info["method"] == "base" else "frozen" if frozen else "fine-tuned"
        base = Path(info["base_model"] or "").name
        setup = (info["method"], base, info["original_length"], info["trained_length"], info["trained_tokens"])
        if kind != "fine-tuned" or seed is None or (setup, seed) in seen:
            setup = model  # a row of its own: not trained, or trained by another recipe, which results do not state
        seen.add((setup, seed))
        row = rows.setdefault(setup, Row(info["method"].removesuffix("_frozen"), kind, info, []))
        row.models.append(model)
    rows = list(rows.values())
    for row in rows:
        row.label = f"{row.method} (frozen)" if row.kind == "frozen" else row.method
    rows.sort(key=lambda row: row.order)
    label_rows(rows)
    styles = defaultdict(itertools.cycle(SPARE_STYLES).__next__, STYLE)
    for row in rows:
        row.color, row.marker = styles[row.method]
    return rows


def label_rows(rows: list[Row]) -> None:
    """Tells rows of one method apart: adds the trained length, where that is not enough the model."""
    lengths = defaultdict(set)
    for row in rows:
        lengths[row.label].add(row.length)
    for row in rows:
        if len(lengths[row.label]) > 1:
            row.label += f" {short(row.length)}"
    counts = Counter(row.label for row in rows)
    for row in rows:
        if counts[row.label] > 1:
            row.label += f", {row.models[0]}"


def make_frame(rows: list[Row], results: Results) -> pd.DataFrame:
    """The scores of all rows that have a value, a line each. Of a task with several sources of data only the first.

    value, low, high: perplexity, else in %.  score: the Score, the mean over training seeds.
    """
    lines = []
    for row in rows:
        groups = defaultdict(list)
        for score in results.scores:
            if score.model in row.models and score.value is not None:
                groups[score.key].append(score)
        for scores in groups.values():
            score = merge_seeds(scores)
            lines.append({**vars(score), "label": row.label, "score": score})
    columns = ["label", "benchmark", "task", "part", "metric", "length", "value", "low", "high", "n", "source", "score"]
    frame = pd.DataFrame(lines, columns=columns)
    frame = frame.astype(dict.fromkeys(["length", "value", "low", "high"], float))
    frame.loc[frame.benchmark == "needle", ["value", "low", "high"]] *= 100
    is_first = frame.source == frame.groupby(["benchmark", "task"]).source.transform("min")
    for task, source in frame.loc[~is_first, ["task", "source"]].drop_duplicates().to_numpy():
        results.warnings.append(
            f"{task}: results on {source} data are in results.csv only; the others are on other data"
        )
    return frame[is_first]


def merge_seeds(scores: list[Score]) -> Score:
    """The mean over training seeds (perplexity: of the losses).

    For the interval, samples that all seeds have are averaged; without any there is none, and of perplexity none if
    the seeds' windows are not the same.
    """
    if len(scores) == 1:
        return scores[0]
    frame = pd.DataFrame(scores)
    is_perplexity = scores[0].benchmark in PERPLEXITIES
    value = np.exp(np.log(frame.value).mean()) if is_perplexity else frame.value.mean()
    mean = with_value(scores[0], float(value), seeds=frame.value.tolist(), n=int(frame.n.min()), samples=None)
    if frame.samples.all() and all(score.targets == mean.targets for score in scores):
        mean.samples = pd.DataFrame(frame.samples.tolist()).dropna(axis=1).mean().to_dict()
    set_interval(mean, [mean])
    return mean


def mean_of(scores: list[Score]) -> Score:
    """The mean over sets, tasks or lengths as one score, its interval from their samples.

    A perplexity is of one set and length, and keeps its interval. The mean has training seeds only if every score has
    the same number of them.
    """
    mean = replace(scores[0])
    if len(scores) > 1:
        frame = pd.DataFrame(scores)
        mean.value, mean.n = float(frame.value.mean()), int(frame.n.sum())
        mean.samples, mean.seeds = None, []
        if frame.seeds.map(len).nunique() == 1:
            mean.seeds = np.mean(frame.seeds.tolist(), axis=0).tolist()
    if mean.benchmark not in PERPLEXITIES:
        set_interval(mean, scores)
    return mean


def target_length(rows: list[Row]) -> int:
    """The length that the study extends to: the commonest trained length of the fine-tuned rows (else of the frozen,
    else the original one), the longest of them in a tie; 0 if unknown."""
    lengths = {"fine-tuned": [], "frozen": [], "base": []}
    windows = []
    for row in rows:
        window = row.info["original_length"] or 0
        windows.append(window)
        if row.length > window:
            lengths[row.kind].append(row.length)
    return int(pd.Series(lengths["fine-tuned"] or lengths["frozen"] or windows).mode().max())


def nearest(lengths: pd.Series, target: int) -> int:
    """The target if it was measured, else the longest length below it, else the shortest."""
    shorter = lengths[lengths <= target]
    return int(shorter.max() if len(shorter) else lengths.min())
