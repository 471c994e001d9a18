"""Score: a number of a model with its samples, means of scores, and their intervals by stats.py."""

import math
from dataclasses import InitVar, dataclass, field, replace
from itertools import groupby
from operator import attrgetter

import numpy as np
import pandas as pd

from stats import Estimate, mean_over_documents, mean_over_grid, mean_over_tasks

PERPLEXITIES = ("perplexity", "long_ppl")  # benchmarks of which lower is better


@dataclass
class Score:
    """One number of one model.

    length: tokens (many-shot and in-context labels: examples; key-value: pairs; LongBench: None).
    part: "" for the whole, else "last 64" or "depth 25".
    value: perplexity, 0 to 1 (needle) or 0 to 100, with its 95 % interval from `low` to `high`, given as `interval`.
    samples: {id: value} of the samples whose mean the value is; the ids of needle are (length, depth, trial).
    targets: of perplexities, whose samples are documents with their summed losses, nats: {document: number of targets}.
    drawn_text: of needle: whether each trial has its own text, the same in all cells.
    seeds: values of the training seeds that were averaged.  settings: compared with the paper's.
    """

    benchmark: str
    task: str
    length: int | None
    n: int
    source: str
    protocol: str | None
    seed: int | None
    file: str
    model: str = ""
    value: int | float | None = None
    low: int | float | None = math.nan
    high: int | float | None = math.nan
    part: str = ""
    metric: str = "score"
    samples: dict = field(default_factory=dict)
    targets: dict = field(default_factory=dict)
    drawn_text: bool = False
    seeds: list = field(default_factory=list)
    settings: dict = field(default_factory=dict)
    interval: InitVar[list | None] = None

    def __post_init__(self, interval):
        if interval:
            self.low, self.high = interval

    key = property(attrgetter("benchmark", "task", "length", "part", "metric", "source"))  # what this is a score of

    def place(self) -> tuple:
        """Where it stands in results.csv."""
        return self.model, self.benchmark, self.task, self.length or 0, self.metric, self.source

    @property
    def design(self) -> tuple:
        """What agrees in scores whose samples of one id are pairs: texts of needle, data and windows of perplexity."""
        return self.drawn_text, self.targets, self.settings if self.targets else None


def make_estimate(methods) -> Estimate:
    """Means of methods over the samples that all of them have. methods: of each a list of scores, of the same tasks."""
    first = methods[0][0]
    tasks = []
    for scores in zip(*methods, strict=True):  # of one task
        samples = pd.DataFrame([score.samples for score in scores])
        tasks.append(samples.dropna(axis=1))
    if first.targets:
        [losses] = tasks
        return mean_over_documents(losses, losses.columns.map(first.targets))
    if first.benchmark == "needle":
        grid = pd.concat(tasks, axis=1)
        grid.columns = pd.MultiIndex.from_tuples(grid.columns)
        score_MCT = [trials.unstack() for _, trials in grid.iterrows()]
        return mean_over_grid(score_MCT, all(score.drawn_text for score in methods[0]))
    return mean_over_tasks(tasks, highest=100)


def set_interval(mean, scores) -> None:
    """Sets the 95 % interval of the mean of these scores: none if one lacks samples, or if they are too few."""
    mean.low = mean.high = math.nan
    if all(score.samples for score in scores):
        interval = make_estimate([scores]).interval()
        if interval:
            mean.low, mean.high = np.exp(interval) if mean.targets else interval


def mean_of(scores) -> Score:
    """The mean over sets, tasks or lengths. It has training seeds only if all scores have the same number of them."""
    frame = pd.DataFrame(scores)
    mean = replace(scores[0], n=frame.n.sum(), value=frame.value.mean(), samples={}, seeds=[])
    if frame.seeds.map(len).nunique() == 1:
        mean.seeds = np.mean(frame.seeds.tolist(), axis=0).tolist()
    if mean.benchmark not in PERPLEXITIES:  # a perplexity is single and keeps its interval
        set_interval(mean, scores)
    return mean


def add_needle_means(scores) -> list[Score]:
    """All scores in the order of results.csv; before the cells of a needle grid at a length the mean of all trials."""
    everything = []
    for _, group in groupby(sorted(scores, key=Score.place), key=Score.place):
        group = list(group)
        cells = [score for score in group if score.value is not None]
        if cells and group[0].benchmark == "needle":
            frame = pd.DataFrame(cells)
            mean = replace(
                cells[0],
                part="",
                file=cells[0].file.rpartition("/")[0],
                n=frame.n.sum(),
                value=np.average(frame.value, weights=frame.n),
                drawn_text=frame.drawn_text.all(),
                samples={},
            )
            for samples in frame.samples:
                mean.samples |= samples
            set_interval(mean, [mean])
            everything.append(mean)
        everything += group
    return everything


def merge_seeds(scores) -> Score:
    """The mean over training seeds (perplexity: of the losses), its interval from samples that all seeds have."""
    if len(scores) == 1:
        return scores[0]
    frame = pd.DataFrame(scores)
    mean = replace(scores[0], n=frame.n.min(), value=frame.value.mean(), samples={}, seeds=frame.value.tolist())
    if mean.benchmark in PERPLEXITIES:
        mean.value = np.exp(np.log(frame.value).mean())
    same_windows = all(score.targets == mean.targets for score in scores)  # of perplexity
    if same_windows and frame.samples.all():
        samples = pd.DataFrame(frame.samples.tolist())
        mean.samples = samples.dropna(axis=1).mean().to_dict()
    set_interval(mean, [mean])
    return mean
