"""The table of RULER's scores over models and lengths that evaluate.py prints."""

import pandas

# RULER's effective length (arXiv 2404.06654) is the longest whose mean reaches the score of Llama-2-7B-chat at 4,096
# tokens
THRESHOLD = 85.6


def make_row(scores: dict, tasks: list[str]) -> dict:
    """A row of the table.  scores: the content of a scores.json.  tasks: those that must be there."""
    mean, entries = scores["mean"], scores["tasks"]
    row = {key: scores[key] for key in ("name", "method", "length")}
    row |= mean
    row["nulls"] = sum(entry["nulls"] for entry in entries.values())
    missing = [task for task in tasks if task not in entries]
    for task, entry in entries.items():
        row[task] = entry["score"]
        if not entry["complete"]:
            missing.append(f"{task} ({entry['n']} of {entry['expected_n']} samples)")
    row["missing"] = ", ".join(missing)
    return row


def print_means(frame: pandas.DataFrame, num_tasks: int) -> None:
    """A line for each model: its mean at each length, and its effective length."""
    cells = []
    for row in frame.itertuples():
        low, high = row.interval_95
        cell = f"{row.score:.1f} [{low:.1f}, {high:.1f}]"
        if row.tasks != num_tasks:
            cell += f" ({row.tasks})"
        cells.append(cell)
    frame = frame.assign(cell=cells).fillna({"method": "-"})
    table = frame.pivot(index=["name", "method"], columns="length", values="cell")
    passed = frame[frame.score >= THRESHOLD]
    table["effective_length"] = passed.groupby(["name", "method"]).length.max().astype(str)
    print(f"RULER: mean of {num_tasks} tasks in % [95 % interval over the samples]; of fewer tasks: (number)\n")
    print(table.fillna("-").reset_index().to_string(index=False))
    print(f"\neffective_length: the longest whose mean reaches {THRESHOLD}")


def print_tasks(frame: pandas.DataFrame, tasks: list[str]) -> None:
    """A table for each length: the score of every task."""
    for length, rows in frame.groupby("length"):
        print(f"\n{length} tokens; nulls: empty answers")
        table = rows.reindex(columns=["name", *tasks, "nulls"])
        for long, abbreviation in (("niah_", ""), ("single", "s"), ("multi", "m")):
            table.columns = table.columns.str.replace(long, abbreviation)
        print(table.to_string(index=False, na_rep="-", float_format="%.1f"))
    standins = set(frame.standin.explode().dropna())
    if standins:
        names = " ".join(sorted(standins))
        print(f"\nstand-in data, not RULER's: {names}; compare these tasks with each other only")


def find_missing(frame: pandas.DataFrame, lengths: list[int] | None) -> list[str]:
    """A line for each model and length whose scores are missing or incomplete. lengths: all must be there [any]."""
    reasons = frame.set_index(["name", "length"]).missing
    lines = []
    for name in frame.name.unique():
        for length in lengths or sorted(frame.length.unique()):
            reason = reasons.get((name, length), "everything")
            if reason:
                lines.append(f"missing: {name} at {length}: {reason}")
    return lines
