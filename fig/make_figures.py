"""Collects the results of every stage into one table, and draws Table 1, every figure and one report.

    python make_figures.py                                              reads the stages' own results, writes here
    python make_figures.py --results ../quickstart_run/results ../quickstart_run/needle --output_dir out
    python make_figures.py --results all/ --checkpoints ckpts/ --failures failed.txt --output_dir out

Needs no GPU and reads only result files (and of checkpoint folders config.json and metrics.jsonl). Writes results.csv
(every number, the same bytes for the same results), table1.md, .tex and .csv, costs.csv, correlation.csv,
perplexity.csv, each figure as .png and .svg, and report.html, which has all of it in one file. A file that is not whole
is named and left out; the exit status is 1 only if there is nothing to show.
"""

import argparse
import io
from collections.abc import Iterator
from pathlib import Path

import costs
import heatmaps
import paper
import plots
import relations
import report
import tables
from collect import collect, write_results
from rows import make_rows, target_length

ROOT = Path(__file__).resolve().parent.parent
DEFAULT = [ROOT / name for name in ("eval_perplexity/results", "needle/results", "longbench/pred", "longbench/pred_e",
                                    "longbench/pred_trec", "ruler/results")]  # fmt: skip


def draw(study: report.Study) -> Iterator[plots.Drawn]:
    """Every figure that there are results for, one after the other."""
    by_benchmark = (plots.perplexity, heatmaps.needle, plots.many_shot, heatmaps.longbench, plots.ruler, heatmaps.ruler)
    for figures in by_benchmark:
        yield from figures(study.rows, study.target)
    yield from relations.correlation(study.rows, study.columns, study.correlations)
    yield from relations.costs(study.rows, study.columns, study.found, study.trainings)


def save(drawn: plots.Drawn, folder: Path) -> str:
    """Writes the figure as PNG and SVG; returns the SVG."""
    drawn.figure.savefig(folder / f"{drawn.name}.png", dpi=160)
    drawn.figure.set_layout_engine("none")  # it stays as it is laid out now
    text = io.StringIO()
    drawn.figure.savefig(text, format="svg", metadata={"Date": None})
    plots.plt.close(drawn.figure)
    (folder / f"{drawn.name}.svg").write_text(text.getvalue(), encoding="utf-8")
    return text.getvalue()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, nargs="+", help="folders of result files [those of the stages]")
    parser.add_argument("--output_dir", type=Path, default=ROOT / "fig", help="[this folder]")
    parser.add_argument("--checkpoints", type=Path, help="folder of the checkpoints: what training cost, its settings")
    parser.add_argument("--failures", type=Path, help="a file with a line for each step that failed, for the report")
    parser.add_argument("--length", type=int, help="Table 1's length, tokens [the commonest trained length]")
    args = parser.parse_args()
    roots = args.results or [root for root in DEFAULT if root.is_dir()]
    missing = [str(root) for root in roots if not root.is_dir()]
    if len(missing) == len(roots):
        raise SystemExit(f"error: no folder {', '.join(missing) or DEFAULT[0]}; run an evaluation first")
    found = collect([root for root in roots if root.is_dir()])
    found.warnings += [f"no folder {folder}" for folder in missing]
    for line in found.warnings:
        print(line)
    if not found.scores:
        raise SystemExit(f"error: no results in {', '.join(map(str, roots))}; run eval_perplexity/eval.sh first")
    there = args.failures and args.failures.exists()
    failures = args.failures.read_text(encoding="utf-8").split("\n") if there else []
    failures = [line for line in failures if line.strip()]
    output = args.output_dir
    output.mkdir(parents=True, exist_ok=True)

    rows = make_rows(found)
    target = args.length or target_length(rows)
    columns = tables.columns_of(rows, target)
    comparisons = paper.compare(rows)
    tables.fill(columns, rows, lambda row, column: paper.for_table(comparisons, row, column))
    correlations = relations.correlations(rows, columns)
    trainings, recipes = costs.read_training(args.checkpoints, found)
    study = report.Study(found, rows, target, columns, comparisons, correlations, trainings, recipes, failures)

    write_results(found, output / "results.csv")
    costs.write(found, trainings, output / "costs.csv")
    relations.write_correlations(correlations, output / "correlation.csv")
    tables.write(columns, rows, output)
    if datasets := plots.tasks(rows, "perplexity"):
        tables.write_perplexity(rows, output / "perplexity.csv")
    for dataset in datasets:
        seen = [score for row in rows for score in row.select("perplexity") if score.task == dataset]
        fewest = min(score.n for score in seen)
        print(f"\nPerplexity on {dataset} ({seen[0].source} data), mean / last 64 positions, {fewest}+ windows each")
        print(tables.perplexity(rows, dataset))

    figures = []
    for drawn in draw(study):
        figures.append((drawn, save(drawn, output)))
        print(f"figure: {output / drawn.name}.png", flush=True)
    page = report.write(study, figures, output)
    print(f"\n{tables.markdown(columns, rows)}\ntable: {output / 'table1.md'}\nreport: {page}")


if __name__ == "__main__":
    main()
