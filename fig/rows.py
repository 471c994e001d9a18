"""From models to the rows of Table 1 and the lines of figures: groups, labels, colours, means over training seeds."""

from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from collect import Results, Score
from stats import percentile_interval, resampled_means, wilson

# Okabe and Ito's palette, which colour-blind readers can tell apart; markers serve black and white
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
}
SPARE_STYLES = [("#44AA99", "p"), ("#AA4499", "*"), ("#999933", "8"), ("#332288", "H")]  # for methods of your own
GROUPS = (
    "base",
    "exact attention, frozen",
    "exact attention, fine-tuned",
    "approximate attention, frozen",
    "approximate attention, fine-tuned",
    "attention unknown, frozen",
    "attention unknown, fine-tuned",
)
MAIN_METRIC = {"perplexity": "perplexity"}  # the metric shown; "score" for the others


@dataclass
class Row:
    """A method as it was extended; `models` differ in their training seed only.

    info: collect.MODEL_KEYS.  method: without "_frozen".  scores: by Score.key.
    """

    label: str
    group: str
    method: str
    info: dict
    models: list[str]
    scores: dict[tuple, Score] = field(default_factory=dict)
    color: str = ""
    marker: str = ""

    @property
    def frozen(self) -> bool:
        return is_frozen(self.info)

    @property
    def base(self) -> bool:
        return self.group == "base"

    def select(self, benchmark: str) -> list[Score]:
        """The scores of a benchmark's main metric that have a value, without those of a part."""
        metric, scores = MAIN_METRIC.get(benchmark, "score"), []
        for score in self.scores.values():
            if (score.benchmark, score.part, score.metric) == (benchmark, "", metric) and score.value is not None:
                scores.append(score)
        return scores


def short(length: float) -> str:
    """A number of tokens as people say it: 512, 2k, 32k; 62872 is 63k."""
    if length < 1024:
        return f"{length:g}"
    return f"{length / 1024:g}k" if length % 1024 == 0 else f"{length / 1000:.0f}k"


def source_names(sources) -> str:
    """official, stand-in, ..."""
    return ", ".join(sorted({"stand-in" if source == "standin" else source for source in sources}))


def is_frozen(info: dict) -> bool:
    """Whether a model was extended without training (None tokens: trained by other code, for an unknown time)."""
    return info["trained_tokens"] == 0 and info["method"] != "base"


def group_of(info: dict) -> str:
    """One of GROUPS. The checkpoint says whether its method attends exactly, in training too (LongLoRA does not)."""
    if info["method"] == "base":
        return "base"
    kind = {True: "exact attention", False: "approximate attention", None: "attention unknown"}[info["exact_attention"]]
    return f"{kind}, {'frozen' if is_frozen(info) else 'fine-tuned'}"


def make_rows(results: Results) -> list[Row]:
    """Rows in the order of GROUPS, then by label. Models of one set-up trained with different seeds share a row."""
    setups: dict[tuple, list[tuple]] = {}  # set-up -> [(seed, model)]
    for name, info in sorted(results.models.items()):
        if is_frozen(info) or info["method"] == "base" or info["training_seed"] is None:
            setup = (name,)
        else:
            setup = tuple(info[key] for key in ("method", "original_length", "trained_length", "trained_tokens"))
            if info["training_seed"] in [seed for seed, _ in setups.get(setup, ())]:
                setup = (name,)  # another recipe, which the results do not tell
        setups.setdefault(setup, []).append((info["training_seed"], name))
    rows = []
    for members in setups.values():
        info = results.models[members[0][1]]
        method = info["method"].removesuffix("_frozen")
        rows.append(Row(method, group_of(info), method, info, [name for _, name in members]))
    rows.sort(key=lambda row: (GROUPS.index(row.group), row.label, row.info["trained_length"] or 0, row.models))
    spare = iter(SPARE_STYLES)
    style = {method: STYLE.get(method) or next(spare, SPARE_STYLES[0]) for method in sorted({r.method for r in rows})}
    for row in rows:
        row.color, row.marker = style[row.method]
        scores: dict[tuple, list[Score]] = {}
        for score in results.scores:
            if score.model in row.models:
                scores.setdefault(score.key, []).append(score)
        row.scores = {key: merge_seeds(members) for key, members in scores.items()}
    name_rows(rows)
    return rows


def name_rows(rows: list[Row]) -> None:
    """Labels: the method, "(frozen)", and what else tells two rows apart: the trained length, the model."""
    for row in rows:
        row.label = f"{row.method} (frozen)" if row.frozen else row.method
    for suffix in (lambda row: f" {short(row.info['trained_length'] or 0)}", lambda row: f", {row.models[0]}"):
        for label in {row.label for row in rows}:
            same = [row for row in rows if row.label == label]
            if len({suffix(row) for row in same}) > 1:
                for row in same:
                    row.label += suffix(row)


def merge_seeds(scores: list[Score]) -> Score:
    """The mean over training seeds (perplexity: of the losses). Samples that all have are averaged before they are
    resampled for the interval; without samples, the bounds of the single intervals are averaged."""
    scores = [score for score in scores if score.value is not None] or scores[:1]
    if len(scores) == 1:
        return scores[0]
    values = [score.value for score in scores]
    mean = replace(scores[0], seeds=values, value=float(np.mean(values)), n=min(score.n for score in scores))
    if mean.benchmark == "perplexity":
        mean.value = float(np.exp(np.mean(np.log(values))))
    if all(score.samples for score in scores):
        shared = [id_ for id_ in scores[0].samples if all(id_ in score.samples for score in scores)]
        mean.samples = {id_: float(np.mean([score.samples[id_] for score in scores])) for id_ in shared}
        if shared:
            bounds = percentile_interval(resampled_means([stratum(mean, shared)]))
            mean.low, mean.high = np.exp(bounds).tolist() if mean.benchmark == "perplexity" else bounds
    elif all(score.low is not None for score in scores):
        mean.low = float(np.mean([score.low for score in scores]))
        mean.high = float(np.mean([score.high for score in scores]))
    return mean


def stratum(score: Score, ids: list, minus: Score | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(sums, counts) of the units to resample, see stats.resampled_means. minus: of the differences from this score."""
    values = np.array([score.samples[id_] - (minus.samples[id_] if minus else 0) for id_ in ids])
    if score.block is None:
        return values, np.ones(len(values))
    _, block = np.unique(np.array(ids) // score.block, return_inverse=True)
    return np.bincount(block, weights=values), np.bincount(block)


def mean_of(scores: list[Score]) -> Score:
    """The mean over sets, tasks or lengths as one score, its interval from their samples. Where all samples are 0 or
    all are 1, a bootstrap interval has zero width: there, and for needles, the interval is Wilson's."""
    mean = replace(scores[0])
    if len(scores) > 1:
        seeds = [score.seeds for score in scores]
        complete = len({len(values) for values in seeds}) == 1  # else a seed lacks a part: no mean over all of it
        mean.seeds = np.mean(seeds, axis=0).tolist() if complete else []
        mean.value = float(np.mean([score.value for score in scores]))
        mean.n = sum(score.n for score in scores)
        mean.samples, mean.low, mean.high = None, None, None
        if mean.benchmark != "needle" and all(score.samples for score in scores):
            strata = [stratum(score, list(score.samples)) for score in scores]
            mean.low, mean.high = percentile_interval(resampled_means(strata))
    scale = 1 if mean.benchmark == "needle" else 100
    if mean.benchmark == "needle" or (mean.benchmark != "perplexity" and mean.value in (0, scale)):
        mean.low, mean.high = (scale * bound for bound in wilson(mean.value / scale * mean.n, mean.n))
    return mean


def score_frame(rows: list[Row]) -> pd.DataFrame:
    """The main metrics of all rows, a line for each score that has a value; label: the row's. Needle in %."""
    lines = []
    for row in rows:
        for score in row.scores.values():
            if score.value is not None and score.metric == MAIN_METRIC.get(score.benchmark, "score"):
                lines.append({"label": row.label, **vars(score)})
    columns = ["label", "benchmark", "task", "part", "length", "value", "low", "high", "n", "source"]
    frame = pd.DataFrame(lines, columns=columns)
    frame = frame.astype({"length": float, "value": float, "low": float, "high": float})
    frame.loc[frame.benchmark == "needle", ["value", "low", "high"]] *= 100
    return frame


def target_length(rows: list[Row]) -> int | None:
    """The length that the study extends to: the commonest trained length of the fine-tuned rows (else of all), the
    longest of them in a tie."""
    lengths, trained = [], []
    for row in rows:
        original, length = row.info["original_length"] or 0, row.info["trained_length"] or 0
        if not row.base and length > original:
            lengths.append(length)
            trained += [] if row.frozen else [length]
    lengths = trained or lengths or [row.info["original_length"] for row in rows if row.info["original_length"]]
    return max(lengths, key=lambda length: (lengths.count(length), length), default=None)


def nearest(lengths, target: int | None) -> int:
    """The target if it was measured, else the longest length below it, else the shortest."""
    return max((length for length in lengths if length <= (target or 0)), default=min(lengths))
