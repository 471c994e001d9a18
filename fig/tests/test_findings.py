"""What the report says about the paper's findings: ahead, behind or not told apart, as the samples say."""

import pytest

import correlation
import findings
import making
from rows import target_length
from test_tables import build


def describe(root) -> list[str]:
    rows, scores, columns = build(root)
    pairs = correlation.pair_scores(scores, columns)
    return findings.describe(columns, correlation.correlations(pairs, rows), target_length(rows))


@pytest.mark.parametrize(
    "exact, approximate, expected",
    [(0.9, 0.1, "ahead in"), (0.1, 0.9, "behind in"), (0.5, 0.5, "not told apart in")],
)
def test_groups_are_compared_by_their_samples(tmp_path, exact, approximate, expected):
    for method, share in (("yarn", exact), ("landmark", approximate)):
        scores = [1.0] * round(20 * share) + [0.0] * round(20 * (1 - share))
        tasks = {task: making.entry(scores, "indices") for task in making.TASKS}
        making.ruler(tmp_path, making.info(f"m_{method}", method, 1000), 512, tasks)
    [sentence] = describe(tmp_path)
    assert sentence.endswith(f"Here: {expected} RULER (yarn {100 * exact:.1f}, landmark {100 * approximate:.1f}).")


def test_reach_and_relation(study):
    sentences = describe(study)
    assert len(sentences) == 4
    rows, _, columns = build(study)
    needle = columns[1].scores
    tuned = needle[needle.label.isin([row.label for row in rows if row.kind == "fine-tuned"])]
    inside = tuned[tuned.length <= 512].value.mean()
    beyond = tuned[tuned.length == 1024].value.mean()
    assert f"fine-tuned methods find {inside:.0f} % of needles up to 512 tokens and {beyond:.0f} %" in sentences[2]
    assert "no clear relation in Needle (ρ = -0.98 [-1.00, 0.98])" in sentences[3]  # the interval includes 0
