"""From the records of the windows to the numbers of a result: means, perplexities and their 95 % intervals."""

import math
from statistics import fmean

import numpy as np

from stats import mean_over_documents
from windows import position_buckets, recorded_parts


def summarise(records: list[dict], length: int, n_documents: int) -> dict:
    """The result's values from the records of all windows (windows.record), in any order.

    Losses are plain means over windows, in nats. n_documents: of the stream.
    """
    records = sorted(records, key=lambda record: record["start"])
    n_correct = sum(record["correct"] for record in records)
    means = {key: mean_loss(records, key, n_documents) for key in recorded_parts(length)}
    total = means.pop("loss")
    sum_D, target_D = sum_by_document(records, "loss", n_documents)
    return {
        "val_acc": n_correct / (len(records) * length),
        "val_loss": total["loss"],
        "val_perplexity": total["perplexity"],
        "val_perplexity_per_chunk": [total["perplexity"]],
        "perplexity_interval_95": total["perplexity_interval_95"],
        "sampled_unit": "document",
        "n_sampled_documents": int((target_D > 0).sum()),
        "loss_by_position": loss_by_position(records, length),
        **means,
        # to compare two models document by document
        "document_losses": {"sum": sum_D.tolist(), "targets": target_D.tolist()},
    }


def sum_by_document(records: list[dict], key: str, n_documents: int) -> tuple[np.ndarray, np.ndarray]:
    """(summed losses, numbers of targets) over all windows, float64 and int64 [D]. key: of windows.recorded_parts."""
    sum_D = np.zeros(n_documents)
    target_D = np.zeros(n_documents, dtype=int)
    for record in records:
        part = record[f"{key}_documents"]  # windows.split_by_document
        documents = slice(part["first"], part["first"] + len(part["sum"]))
        sum_D[documents] += part["sum"]
        target_D[documents] += part["targets"]
    return sum_D, target_D


def mean_loss(records: list[dict], key: str, n_documents: int) -> dict:
    """Mean of one of the records' losses with its perplexity and the interval of that, None for a single document.

    All windows have the same number of targets, so the mean over windows is that over targets, the interval's centre.
    """
    loss = fmean(record[key] for record in records)
    bounds = mean_over_documents(*sum_by_document(records, key, n_documents)).interval()
    interval = list(map(math.exp, bounds)) if bounds else None
    return {"loss": loss, "perplexity": math.exp(loss), "perplexity_interval_95": interval}


def loss_by_position(records: list[dict], length: int) -> list[dict]:
    """Mean loss and perplexity in each bucket of positions (windows.position_buckets)."""
    buckets = []
    for i, (first, last) in enumerate(position_buckets(length)):
        loss = fmean(record["buckets"][i] for record in records) / (last - first + 1)
        buckets.append({"from": first, "to": last, "loss": loss, "perplexity": math.exp(loss)})
    return buckets
