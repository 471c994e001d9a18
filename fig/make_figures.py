"""Collects the results of every stage into one table, and draws Table 1, every figure and one report.

    python make_figures.py                                              reads the stages' own results, writes here
    python make_figures.py --results all/ --checkpoints ckpts/ --failures failed.txt --output_dir out

Needs no GPU and reads only result files (and of checkpoint folders config.json and metrics.jsonl). Writes results.csv
(every number, the same bytes for the same results), table1.md, .tex and .csv, costs.csv, correlation.csv, each figure
as .png and .svg, and report.html, which contains all of it in one file. An incomplete file is reported and left out;
the exit status is 1 only if there is nothing to show.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import correlation
import costs
import paper
import plots
import report
import tables
from collect import collect, write_results
from rows import make_rows, score_frame, target_length

ROOT = Path(__file__).resolve().parent.parent
DEFAULT = [ROOT / name for name in ("eval_perplexity/results", "needle/results", "longbench/pred", "longbench/pred_e",
                                    "longbench/pred_trec", "ruler/results")]  # fmt: skip
FIGURES = (plots.perplexity, plots.needle_grid, plots.many_shot, plots.longbench, plots.ruler, plots.ruler_tasks)


def save(figures: Iterator[plots.Drawn], folder: Path) -> list[plots.Drawn]:
    """Writes each figure as PNG and SVG, and closes it."""
    saved = []
    for drawn in figures:
        drawn.figure.savefig(folder / f"{drawn.name}.png", dpi=160)
        drawn.figure.savefig(folder / f"{drawn.name}.svg", metadata={"Date": None})
        plots.plt.close(drawn.figure)
        print(f"figure: {folder / drawn.name}.png", flush=True)
        saved.append(drawn)
    return saved


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, nargs="+", help="folders of result files [those of the stages]")
    parser.add_argument("--output_dir", type=Path, default=ROOT / "fig", help="[this folder]")
    parser.add_argument("--checkpoints", type=Path, help="folder of the checkpoints: costs and settings of training")
    parser.add_argument("--failures", type=Path, help="a file with a line for each step that failed, for the report")
    parser.add_argument("--length", type=int, help="Table 1's length, tokens [the commonest trained length]")
    args = parser.parse_args()
    roots = args.results or DEFAULT
    results = collect([root for root in roots if root.is_dir()])
    results.warnings += [f"no folder {root}" for root in args.results or () if not root.is_dir()]
    for line in results.warnings:
        print(line)
    if not results.scores:
        raise SystemExit(f"error: no results in {', '.join(map(str, roots))}; run eval_perplexity/eval.sh first")
    failures = []
    if args.failures and args.failures.exists():
        failures = [line for line in args.failures.read_text(encoding="utf-8").splitlines() if line.strip()]

    rows = make_rows(results)
    scores = score_frame(rows)
    target = args.length or target_length(rows)
    columns = tables.make_columns(rows, target)
    comparisons = paper.compare(rows)
    tables.fill(columns, rows, lambda row, column: paper.for_table(comparisons, row, column))
    pairs = correlation.pair_scores(scores, columns)
    correlations = correlation.correlations(pairs, rows)
    trainings, recipes = costs.read_training(args.checkpoints, results)
    cost_table = costs.cost_frame(results, trainings)

    output = args.output_dir
    output.mkdir(parents=True, exist_ok=True)
    write_results(results, output / "results.csv")
    cost_table.to_csv(output / "costs.csv", index=False, lineterminator="\n")
    correlations.to_csv(output / "correlation.csv", index=False, lineterminator="\n")
    tables.write(columns, rows, output)
    figures = []
    for draw in FIGURES:
        figures += save(draw(rows, scores, target), output)
    figures += save(correlation.figure(rows, pairs, correlations), output)
    study = report.Study(
        results, rows, target, columns, comparisons, correlations, cost_table, recipes, figures, failures
    )
    page = report.write(study, output)
    print(f"\n{tables.markdown(columns, rows)}\ntable: {output / 'table1.md'}\nreport: {page}")


if __name__ == "__main__":
    main()
