"""From models to the rows of tables and the lines of figures: names, groups, colours, training seeds put together."""

from dataclasses import dataclass, field, replace

import numpy as np

from collect import Results, Score
from intervals import interval, resampled_means, wilson

# Okabe and Ito's palette, told apart by the colour-blind; markers tell the same in black and white
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
SPARE = [("#44AA99", "p"), ("#AA4499", "*"), ("#999933", "8"), ("#332288", "H")]  # for methods of your own
GROUPS = (
    "base",
    "exact attention, frozen",
    "exact attention, fine-tuned",
    "approximate attention, frozen",
    "approximate attention, fine-tuned",
    "attention unknown, frozen",
    "attention unknown, fine-tuned",
)
MAIN = {"perplexity": "perplexity", "needle": "score"}  # the metric shown; "score" of the others


@dataclass
class Row:
    """A method as it was extended; `models` differ in their training seed only. scores: by Score.key."""

    label: str
    group: str
    method: str  # without "_frozen": the colour
    facts: dict
    models: list[str]
    scores: dict[tuple, Score] = field(default_factory=dict)

    @property
    def frozen(self) -> bool:
        return is_frozen(self.facts)

    @property
    def base(self) -> bool:
        return self.group == "base"

    def get(self, benchmark: str, task: str, length: int | None, part: str = "", metric: str = "") -> Score | None:
        """The score, if it is there and has a value."""
        score = self.scores.get((benchmark, task, length, part, metric or MAIN.get(benchmark, "score")))
        return score if score and score.value is not None else None

    def select(self, benchmark: str, part: str = "") -> list[Score]:
        """All of a benchmark's scores of the main metric that have a value."""
        metric = MAIN.get(benchmark, "score")
        return [
            score
            for score in self.scores.values()
            if (score.benchmark, score.part, score.metric) == (benchmark, part, metric) and score.value is not None
        ]


def short(length: float) -> str:
    """Tokens as they are spoken of: 512, 2k, 32k; 62872 is 63k."""
    if length < 1024:
        return f"{length:g}"
    return f"{length / 1024:g}k" if length % 1024 == 0 else f"{length / 1000:.0f}k"


def source_name(source: str) -> str:
    return "stand-in" if source == "standin" else source


def is_frozen(facts: dict) -> bool:
    """Extended without training (None tokens: trained by other code, it is not known how long)."""
    return facts["trained_tokens"] == 0 and facts["method"] != "base"


def group_of(facts: dict) -> str:
    """One of GROUPS. The checkpoint says whether its method attends exactly, in training too; LongLoRA's does not."""
    if facts["method"] == "base":
        return "base"
    kinds = {True: "exact attention", False: "approximate attention", None: "attention unknown"}
    return f"{kinds[facts['exact_attention']]}, {'frozen' if is_frozen(facts) else 'fine-tuned'}"


def make_rows(found: Results) -> list[Row]:
    """Rows in the order of GROUPS, then by label. Models of one set-up trained with different seeds share a row."""
    setups: dict[tuple, list[tuple]] = {}  # -> seeds, models
    for name, facts in sorted(found.models.items()):
        if is_frozen(facts) or facts["method"] == "base" or facts["training_seed"] is None:
            setup = (name,)
        else:
            setup = tuple(facts[key] for key in ("method", "original_length", "trained_length", "trained_tokens"))
            if facts["training_seed"] in [seed for seed, _ in setups.get(setup, ())]:
                setup = (name,)  # another recipe, of which the results do not tell
        setups.setdefault(setup, []).append((facts["training_seed"], name))
    rows = []
    for members in setups.values():
        facts = found.models[members[0][1]]
        method = facts["method"].removesuffix("_frozen")
        rows.append(Row(method, group_of(facts), method, facts, [name for _, name in members]))
    rows.sort(key=lambda row: (GROUPS.index(row.group), row.label, row.facts["trained_length"] or 0, row.models))
    by_model: dict[str, list[Score]] = {}
    for score in found.scores:
        by_model.setdefault(score.model, []).append(score)
    for row in rows:
        keyed: dict[tuple, list[Score]] = {}
        for name in row.models:
            for score in by_model.get(name, ()):
                keyed.setdefault(score.key, []).append(score)
        row.scores = {key: merge(scores) for key, scores in keyed.items()}
    name_rows(rows)
    return rows


def name_rows(rows: list[Row]) -> None:
    """Labels: the method, "(frozen)" where it is, and what else tells two rows apart: the trained length, the model."""
    for row in rows:
        row.label = f"{row.method} (frozen)" if row.frozen else row.method
    for tell in (lambda row: f" {short(row.facts['trained_length'] or 0)}", lambda row: f", {row.models[0]}"):
        for label in {row.label for row in rows}:
            same = [row for row in rows if row.label == label]
            if len({tell(row) for row in same}) > 1:
                for row in same:
                    row.label += tell(row)


def merge(scores: list[Score]) -> Score:
    """The mean of several training seeds: samples that all have are averaged, then drawn for the interval. (Perplexity:
    mean of the losses.) Without samples, the mean of the single intervals' bounds."""
    good = [score for score in scores if score.value is not None]
    if len(good) < 2:
        return good[0] if good else scores[0]
    values = [score.value for score in good]
    merged = replace(good[0], seeds=values, value=float(np.mean(values)), n=min(score.n for score in good))
    if good[0].benchmark == "perplexity":
        merged.value = float(np.exp(np.mean(np.log(values))))
    if all(score.samples for score in good):
        shared = [id_ for id_ in good[0].samples if all(id_ in score.samples for score in good)]
        merged.samples = {id_: float(np.mean([score.samples[id_] for score in good])) for id_ in shared}
        if shared:
            low, high = interval(resampled_means([stratum(merged, shared)]))
            if merged.benchmark == "perplexity":
                low, high = float(np.exp(low)), float(np.exp(high))
            merged.low, merged.high = low, high
    elif all(score.low is not None for score in good):
        merged.low, merged.high = (float(np.mean([getattr(s, end) for s in good])) for end in ("low", "high"))
    return merged


def stratum(score: Score, ids: list, minus: Score | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(sums, counts) of the units that are resampled, see intervals.resampled_means. minus: of the differences."""
    values = np.array([score.samples[id_] - (minus.samples[id_] if minus else 0) for id_ in ids])
    if score.block is None:
        return values, np.ones(len(values))
    _, block = np.unique(np.array(ids) // score.block, return_inverse=True)
    return np.bincount(block, weights=values), np.bincount(block)


def mean_of(units: list[Score]) -> Score:
    """The mean over strata (sets, tasks, lengths) as one score, its interval from their samples. Where all samples are
    0 or all are 1, a bootstrap knows no doubt: there, and for needles, the interval is Wilson's."""
    mean = replace(units[0])
    if len(units) > 1:
        mean.seeds = [float(np.mean(values)) for values in zip(*(unit.seeds for unit in units), strict=True)]
        mean.value, mean.n = float(np.mean([unit.value for unit in units])), sum(unit.n for unit in units)
        mean.samples, mean.low, mean.high = None, None, None
        mean.source = ", ".join(sorted({unit.source for unit in units}))
        if units[0].benchmark != "needle" and all(unit.samples for unit in units):
            mean.low, mean.high = interval(resampled_means([stratum(unit, list(unit.samples)) for unit in units]))
    whole = 1 if mean.benchmark == "needle" else 100
    if mean.benchmark == "needle" or mean.benchmark != "perplexity" and mean.value in (0, whole):
        mean.low, mean.high = (whole * bound for bound in wilson(mean.value / whole * mean.n, mean.n))
    return mean


def styles(rows: list[Row]) -> dict[str, tuple[str, str]]:
    """(colour, marker) by method."""
    spare = iter(SPARE)
    return {method: STYLE.get(method) or next(spare, SPARE[0]) for method in sorted({row.method for row in rows})}


def target_length(rows: list[Row]) -> int | None:
    """The length that the study extends to: the commonest trained length of the fine-tuned rows (else of all), the
    longest of them in a tie."""

    def extended(row):
        return not row.base and (row.facts["trained_length"] or 0) > (row.facts["original_length"] or 0)

    lengths = [row.facts["trained_length"] for row in rows if extended(row) and not row.frozen]
    lengths = lengths or [row.facts["trained_length"] for row in rows if extended(row)]
    lengths = lengths or [row.facts["original_length"] for row in rows if row.facts["original_length"]]
    return max(lengths, key=lambda length: (lengths.count(length), length), default=None)


def nearest(lengths: set[int], target: int | None) -> int:
    """The target if it was measured, else the longest below it, else the shortest."""
    return max((length for length in lengths if length <= (target or 0)), default=min(lengths))
