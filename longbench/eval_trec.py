"""Scores many-shot TREC: of every model and number of shots under pred_trec/, and prints one table.

    python eval_trec.py                       every model
    python eval_trec.py --model NAME          one; --models A B: some
    python eval_trec.py --output_dir ROOT     the folder that has pred_trec/ in it [this one]

Writes pred_trec/<model>/result.json, {trec_<N>shots: score}, and scores.json with intervals and the scores of all rows.
What is wrong or missing is said as by eval.py.
"""

from eval import main

if __name__ == "__main__":
    main(many_shot_trec=True, description=__doc__)
