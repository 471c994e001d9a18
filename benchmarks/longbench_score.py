"""Times the scoring of LongBench on one core: 16 sets x 200 rows x 10 models, answers of realistic lengths.

    python benchmarks/longbench_score.py                  all models by longbench/eval.py, one model's ROUGE by `rouge`
    python benchmarks/longbench_score.py --models 2 --no_original

Answers and references are text of pydoc_data: words per text as of the 16 sets' answers, half of an answer's sentences
taken from its reference, in another order and with words left out. Prints seconds, and that ROUGE-L is the same number
as `rouge` 1.0.1 gives wherever that does not fail.
"""

import argparse
import contextlib
import io
import json
import os
import random
import re
import sys
import tempfile
import time
from pathlib import Path

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[threads] = "1"
STAGE = Path(__file__).resolve().parents[1] / "longbench"
sys.path.insert(0, str(STAGE))

import eval as scorer  # noqa: E402
from sets import SETS  # noqa: E402

ROWS = 200
# words of a summary, rounded: Huang 2021 (GovReport), Zhong 2021 (QMSum), Fabbri 2019 (Multi-News), Gliwa 2019
# (SAMSum); an answer has as many tokens as its set allows, 0.7 words each
REFERENCE_WORDS = {"gov_report": 550, "qmsum": 70, "multi_news": 260, "samsum": 20}


def sentences() -> list[str]:
    from pydoc_data.topics import topics

    text = " ".join(" ".join(page.split()) for _, page in sorted(topics.items()))
    return [s.strip() for s in re.split(r"(?<=[.])\s", text) if 5 <= len(s.split()) <= 60]


def prose(rng: random.Random, pool: list[str], words: int) -> list[str]:
    chosen = []
    while sum(len(s.split()) for s in chosen) < words:
        chosen.append(rng.choice(pool))
    return chosen


def answer(rng: random.Random, pool: list[str], reference: list[str], words: int) -> str:
    """Half its sentences from the reference, a tenth of their words left out; cut at `words`."""
    mixed = []
    while sum(len(s.split()) for s in mixed) < words:
        sentence = rng.choice(reference) if rng.random() < 0.5 else rng.choice(pool)
        mixed.append(" ".join(word for word in sentence.split() if rng.random() < 0.9))
    return " ".join(" ".join(mixed).split()[:words])


def write(folder: Path, seed: int, pool: list[str]) -> None:
    (folder / "runs").mkdir(parents=True)
    for name, facts in SETS.items():
        rng = random.Random(f"answers {name}")  # the same references for all models
        made = random.Random(f"answers {name} {seed}")
        lines = []
        for i in range(ROWS):
            reference = prose(rng, pool, REFERENCE_WORDS.get(name, 8))
            classes, text = None, " ".join(reference)
            if facts.metric in ("count", "retrieval"):
                text = f"Paragraph {rng.randint(1, 30)}"
                reference = [text, text.split()[1]]
                text = text if facts.metric == "retrieval" else text.split()[1]
            elif facts.metric == "classification":
                classes = [f"Class of {word}" for word in sorted(set(" ".join(pool[:60]).split()))[:50]]
                text = rng.choice(classes)
                reference = [text]
            words = int(0.7 * facts.new_tokens)
            pred = answer(made, pool, reference, words)
            row = {"pred": pred, "answers": [text], "all_classes": classes, "length": 100 * i, "_id": f"{name} {i}"}
            lines.append(json.dumps(row) + "\n")
        (folder / f"{name}.jsonl").write_text("".join(lines))
        (folder / "runs" / f"{name}.json").write_text(json.dumps({"data": {"source": "user", "rows": ROWS}}))


def compare(folder: Path) -> tuple[float, float, int, int]:
    """(seconds of `rouge`, of ours, rows that differ, rows on which `rouge` fails) over a model's summaries."""
    from rouge import Rouge

    from metrics import rouge_l

    original, seconds, differ, failed = Rouge(), [0.0, 0.0], 0, 0
    for name in (name for name, facts in SETS.items() if facts.metric == "rouge"):
        for row in map(json.loads, (folder / f"{name}.jsonl").open()):
            began = time.perf_counter()
            try:
                theirs = original.get_scores([row["pred"]], row["answers"], avg=True)["rouge-l"]["f"]
            except RecursionError:
                theirs = None
            between = time.perf_counter()
            ours = rouge_l(row["pred"], row["answers"][0])
            seconds[0] += between - began
            seconds[1] += time.perf_counter() - between
            failed += theirs is None
            differ += theirs is not None and theirs != ours
    return *seconds, differ, failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=10)
    parser.add_argument("--no_original", action="store_true", help="without the library `rouge` itself")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        pool = sentences()
        for i in range(args.models):
            write(Path(root) / "pred" / f"model{i}", i, pool)
        sys.argv = ["eval.py", "--output_dir", root]
        began = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()) as out:
            scorer.main()
        seconds = time.perf_counter() - began
        print("\n".join(line for line in out.getvalue().splitlines() if "rows scored" in line).replace(root + "/", ""))
        print(f"longbench/eval.py: {args.models} models x {len(SETS)} sets x {ROWS} rows: {seconds:.1f} s on one core")
        if not args.no_original:
            original, ours, differ, failed = compare(Path(root) / "pred" / "model0")
            print(
                f"ROUGE-L of one model: `rouge` 1.0.1 {original:.1f} s, ours {ours:.2f} s; {differ} rows differ", end=""
            )
            print(f", on {failed} `rouge` fails")


if __name__ == "__main__":
    main()
