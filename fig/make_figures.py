"""Collects the results of every stage into one table, and draws Table 1, every figure and one report.

    python make_figures.py                                              reads the stages' own results, writes here
    python make_figures.py --results all/ --checkpoints ckpts/ --failures failed.txt --output_dir out

Needs no GPU and reads only result files (and of checkpoint folders config.json and metrics.jsonl). Writes results.csv
(every number, the same bytes for the same results), table1.md and .tex, costs.csv, correlation.csv, paper.csv
(comparisons with the paper), each figure as .png and .svg, and report.html, which contains all of it in one file. An
incomplete file is reported and left out; the exit status is 1 only if there is nothing to show.
"""

import sys
from pathlib import Path

from run import Parser, read_text, run_script, write_text

import correlation
import paper
import plots
import report
import tables
from collect import BENCHMARKS, collect
from costs import collect_costs
from lock import lock
from rows import make_frame, make_rows, target_length

ROOT = Path(__file__).resolve().parent.parent
STAGES = """eval_perplexity/results eval_perplexity/results_short needle/results ruler/results
    longbench/pred longbench/pred_e longbench/pred_trec longbench/pred_kv longbench/pred_icl""".split()


def parse_args():
    parser = Parser(__doc__)
    parser.add_argument("--results", type=Path, nargs="+", help="folders of result files [those of the stages]")
    parser.add_argument("--output_dir", type=Path, default=ROOT / "fig", help="[this folder]")
    parser.add_argument("--checkpoints", type=Path, help="folder of the checkpoints: costs and settings of training")
    parser.add_argument("--failures", type=Path, help="a file with a line for each step that failed, for the report")
    columns = "benchmarks in Table 1 and the correlations [the paper's five]"
    parser.add_argument("--columns", nargs="+", choices=BENCHMARKS, default=tables.PAPER_COLUMNS, help=columns)
    paper_data = "token files in pg19/ or proof_file/ that are the paper's own: results on them are compared with it"
    parser.add_argument("--paper_data", nargs="+", default=[], metavar="SHA256", help=paper_data)
    return parser.parse_args()


def draw_figures(rows, scores, target, pairs, correlations):
    """Yields (name, figure) of each figure that there are results for."""
    for name, (draw, benchmark) in plots.FIGURES.items():
        own = scores[scores.benchmark == benchmark]
        figure = draw(rows, own, target) if len(own) else None
        if figure:
            yield name, figure
    if len(pairs):
        yield "correlation", correlation.draw(rows, pairs, correlations)


def main():
    args = parse_args()
    sys.stdout.reconfigure(errors="replace")  # a terminal that is not UTF-8 has no –
    failures = read_text(args.failures).splitlines() if args.failures else []
    roots = args.results or [ROOT / name for name in STAGES]
    results = collect([root.resolve() for root in roots if root.is_dir()])
    for root in args.results or ():
        if not root.is_dir():
            results.warnings.append(f"no folder {root}")
    rows = make_rows(results)
    all_scores = make_frame(rows, results)
    costs, recipes = collect_costs(rows, results, args.checkpoints)
    for warning in results.warnings:
        print(warning)
    if not results.scores:
        raise ValueError(f"no results in {', '.join(map(str, roots))}; run eval_perplexity/eval.sh first")
    results.warnings[:0] = [f"Failed: {line}" for line in failures if line]
    output = args.output_dir
    locked = lock(output / ".lock")  # a second run in this folder waits
    scores = all_scores.query("metric in ('perplexity', 'score')")  # without strict scores, rates and the like
    target = target_length(rows)
    comparisons = paper.compare(all_scores, args.paper_data)
    columns = tables.make_columns(scores, target, args.columns)
    pairs = correlation.pair_scores(scores, columns)
    correlations = correlation.correlations(pairs, rows)

    tables.write_results(results, output / "results.csv")
    markdown = tables.markdown(columns, rows)
    write_text(output / "table1.md", markdown)
    write_text(output / "table1.tex", tables.latex(columns, rows))
    tables.write_csv(costs, output / "costs.csv")
    tables.write_csv(correlations, output / "correlation.csv")
    if len(comparisons):
        tables.write_csv(comparisons, output / "paper.csv")
    figures = []
    for name, figure in draw_figures(rows, scores, target, pairs, correlations):
        figure.savefig(output / f"{name}.png", dpi=160)
        figure.savefig(output / f"{name}.svg", metadata={"Date": None})
        plots.plt.close(figure)
        print(f"figure: {output / name}.png", flush=True)
        figures.append(name)
    report.write(output, figures, results, rows, columns, recipes, correlations, comparisons, costs)
    locked.close()
    print(f"\n{markdown}\ntable: {output / 'table1.md'}\nreport: {output / 'report.html'}")


if __name__ == "__main__":
    run_script(main)
