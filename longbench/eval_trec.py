"""Scores many-shot TREC: every model and number of shots under pred_trec/, and prints a table.

    python eval_trec.py                       every model
    python eval_trec.py --model NAME          one; --models A B: several
    python eval_trec.py --output_dir ROOT     the folder that contains pred_trec/ [this one]

Writes pred_trec/<model>/result.json, {trec_<N>shots: score}, and scores.json with intervals and the scores of all rows.
"""

from eval import main
from run import run_script

if __name__ == "__main__":
    run_script(lambda: main(many_shot_trec=True, description=__doc__))
