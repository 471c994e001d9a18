"""From the records of the windows to the numbers of a result: means, perplexities and their 95 % intervals."""

import math

import numpy as np

from stats import percentile_interval, resampled_means
from windows import LAST, mean, position_buckets

METHOD = (
    "percentile bootstrap of the mean loss over blocks of windows, 1000 resamples; a block is the windows that start "
    "within the same 2 seq_len tokens. It is narrow: 90 to 91 % coverage for independent tokens in a simulation"
)


def block_bootstrap(losses: list[float], blocks: list[int], seed: int) -> list[float] | None:
    """95 % interval [low, high] of mean(losses), or None with fewer than two blocks.

    losses: one mean loss per window, nats.  blocks: the block that each window belongs to.
    """
    _, block = np.unique(blocks, return_inverse=True)
    sums = np.bincount(block, weights=losses)
    counts = np.bincount(block)
    if len(sums) < 2:
        return None
    return list(percentile_interval(resampled_means([(sums, counts)], seed, resamples=1000)))


def perplexity(loss: float | None) -> float | None:
    """exp(loss); None if the loss is None or its exponential exceeds a float64."""
    return math.exp(loss) if loss is not None and loss < 709 else None


def summarise(records: list[dict], length: int, seed: int) -> dict:
    """The result's values from the records of all windows (windows.record), in any order.

    Losses are plain means over windows, in nats. They are null if any window's loss is not finite; then the keys
    `*_without_nan` hold the mean over the other windows.
    """
    records = sorted(records, key=lambda record: record["start"])
    starts = [record["start"] for record in records]
    losses = [record["loss"] for record in records]
    n_correct = sum(record["correct"] for record in records)
    finite = [loss for loss in losses if loss is not None]
    n_bad = len(losses) - len(finite)
    complete = [] if n_bad else records

    total = mean_loss(complete, "loss", length, seed)
    method = METHOD
    if n_bad:
        method = f"no interval: {n_bad} windows have no finite loss"
    elif total["perplexity_interval_95"] is None:
        method = "no interval: all windows start within the same 2 seq_len tokens"
    result = {
        "val_acc": n_correct / (len(records) * length),
        "val_loss": total["loss"],
        "val_perplexity": total["perplexity"],
        "val_perplexity_per_chunk": [total["perplexity"]],
        "perplexity_interval_95": total["perplexity_interval_95"],
        "interval_method": method,
    }
    if n_bad:
        result["val_loss_without_nan"] = mean(finite)
        result["val_perplexity_without_nan"] = perplexity(mean(finite))
        result["n_windows_not_finite"] = n_bad
    result["loss_by_position"] = loss_by_position(complete, length)
    for n in LAST:
        if length > n:
            result[f"last_{n}"] = mean_loss(complete, f"last_{n}", length, seed)
    result["window_losses"] = {"start": starts, "loss": losses}  # to compare two models window by window
    return result


def mean_loss(records: list[dict], key: str, length: int, seed: int) -> dict:
    """Mean of one of the records' losses with its perplexity and interval; null without records."""
    losses, blocks = [], []
    for record in records:
        losses.append(record[key])
        blocks.append(record["start"] // (2 * length))
    interval = block_bootstrap(losses, blocks, seed)
    loss = mean(losses)
    if interval:
        interval = [perplexity(bound) for bound in interval]
    return {"loss": loss, "perplexity": perplexity(loss), "perplexity_interval_95": interval}


def loss_by_position(records: list[dict], length: int) -> list[dict]:
    """Mean loss and perplexity in each bucket of positions (windows.position_buckets); null without records."""
    buckets = []
    for i, (first, last) in enumerate(position_buckets(length)):
        loss = mean([record["buckets"][i] for record in records])  # sums over the bucket's positions
        if loss is not None:
            loss /= last - first + 1
        buckets.append({"from": first, "to": last, "loss": loss, "perplexity": perplexity(loss)})
    return buckets
