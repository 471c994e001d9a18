"""The folder that prepare_data.py fills: Parquet files, the state of an unfinished build, the manifest, the card."""

import hashlib
import json
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

import mixing

SAVE_SECONDS = 60  # at most between two notes of how far the build is
GROUP_TOKENS = 2**20  # of a Parquet row group


def write_atomically(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    os.replace(partial, path)


def write_parquet(path: Path, ids_RL: np.ndarray, starts: list[list[int]] | None) -> None:
    """Rows as Parquet, the same bytes for the same rows: `input_ids` and perhaps `document_starts`, lists of int32."""
    offsets = pa.array(np.arange(0, ids_RL.size + 1, ids_RL.shape[1]), pa.int32())
    columns = {"input_ids": pa.ListArray.from_arrays(offsets, pa.array(ids_RL.reshape(-1), pa.int32()))}
    if starts is not None:
        columns["document_starts"] = pa.array(starts, pa.list_(pa.int32()))
    partial = path.with_name(path.name + ".partial")
    group = max(1, GROUP_TOKENS // ids_RL.shape[1])
    pyarrow.parquet.write_table(pa.table(columns), partial, row_group_size=group, compression="zstd")
    os.replace(partial, path)


class Build:
    """A build in its folder: what is written already, and the state from which a killed build goes on.

    progress.npz holds that state in one file, replaced in one step: the place in the data, the tokens that fill no file
    yet, the counts by source. A Parquet file is written before the state that counts it; after a kill between the two
    it is written again, the same.
    """

    def __init__(self, output: Path, shares: dict[str, float] | None, total: int | None, length: int):
        self.output, self.length = output, length
        self.progress, self.manifest = output / "progress.npz", output / "manifest.json"
        self.place, self.files, self.seconds = (0, 0), 0, 0.0
        self.packed, sources, self.settings = mixing.Rows(length), None, None
        if self.progress.exists():
            with np.load(self.progress, allow_pickle=False) as held:
                state = json.loads(str(held["state"]))
                self.packed = mixing.Rows(length, held["ids_N"], held["starts_D"])
            self.place, self.files, self.seconds = tuple(state["place"]), state["files"], state["seconds"]
            sources, self.settings = state["sources"], state["settings"]
        elif self.manifest.exists():
            self.settings = json.loads(self.manifest.read_text())["settings"]
        elif list(output.glob("*.parquet")):
            raise SystemExit(
                f"error: {output} holds *.parquet that this script did not write; give another --output_dir"
            )
        self.mixture = mixing.Mixture(shares, total, sources)
        self.started = self.saved = time.monotonic()

    def claim(self, settings: dict) -> bool:
        """Is this build finished? Exits with one line if the folder holds one with other settings."""
        held = self.settings
        for name in {**settings, **held} if held else ():
            if held.get(name) != settings.get(name):
                raise SystemExit(
                    f"error: {self.output} holds data made with other settings: {name} was {held.get(name)}, now it "
                    f"is {settings.get(name)}. Give another --output_dir, or delete that folder to start anew."
                )
        self.settings = settings
        return self.manifest.exists()

    def save(self) -> None:
        ids_N, starts_D = self.packed.held()
        state = {"place": self.place, "files": self.files, "seconds": self.elapsed()}
        state |= {"sources": self.mixture.sources, "settings": self.settings}
        self.output.mkdir(parents=True, exist_ok=True)
        partial = self.progress.with_name("progress.npz.partial")
        with partial.open("wb") as file:
            np.savez(file, state=np.array(json.dumps(state)), ids_N=ids_N, starts_D=starts_D)
        os.replace(partial, self.progress)
        self.saved = time.monotonic()

    def elapsed(self) -> float:
        """Seconds of work, those before interruptions included."""
        return self.seconds + time.monotonic() - self.started

    def path(self, number: int) -> Path:
        return self.output / f"train-{number:05d}.parquet"

    def write(self, rows: int) -> None:
        """The next file, with so many rows."""
        ids_RL, starts = self.packed.take(rows)
        write_parquet(self.path(self.files), ids_RL, starts if self.settings["document_boundaries"] else None)
        self.files += 1

    def add(self, task: dict, kept: list[int], lengths: list[int], ids_N: np.ndarray) -> None:
        """Takes a chunk, one document after the other, writes the files that become full, and notes the state.

        task: what prepare_data.make_task says of the chunk; the others are what mixing.tokenise returned for it.
        """
        for name, count in task["seen"].items():
            self.mixture.source(name)["documents_seen"] += count
        for i, length, end in zip(kept, lengths, np.cumsum(lengths, dtype=np.int64).tolist(), strict=True):
            if self.mixture.take(task["sources"][i], length):
                self.packed.add(ids_N[end - length : end])
        self.place = task["place"]
        full, rows = False, self.settings["rows_per_file"]
        while self.packed.size >= rows * self.length:
            self.write(rows)
            full = True
        if full or time.monotonic() - self.saved > SAVE_SECONDS:
            self.save()

    def finish(self, origin: dict) -> dict:
        """Writes the last rows, reads all files back to count and hash them, then the card; manifest.json comes last.

        origin: what the manifest says of where the data come from. Returns the manifest. Exits with one line if there
        is not one row, or if the files do not add up to the tokens that were kept.
        """
        if self.packed.size >= self.length:
            self.write(self.packed.size // self.length)
        if self.files == 0:
            raise SystemExit(f"error: the documents kept have {self.packed.size} tokens, not one row of {self.length}")
        digest, files, rows = hashlib.sha256(), [], 0
        for number in range(self.files):
            path, in_file = self.path(number), 0
            for batch in pyarrow.parquet.ParquetFile(path).iter_batches(64, columns=["input_ids"]):
                digest.update(batch.column(0).flatten().to_numpy().astype("<i4").tobytes())
                in_file += len(batch.column(0).flatten()) // self.length
            files.append({"file": path.name, "rows": in_file, "sha256": file_sha256(path)})
            rows += in_file
        mixture, seconds = self.mixture, self.elapsed()
        kept, dropped = mixture.tokens, self.packed.size
        if rows * self.length + dropped != kept:
            raise SystemExit(f"error: {self.output} does not hold what was written; delete it and start anew")
        sources = {}
        for name, counts in mixture.sources.items():
            budget = mixture.budgets.get(name, 0) if mixture.budgets else None
            sources[name] = {**counts, "budget": budget, "share": counts["tokens"] / kept}
        manifest = {
            **origin,
            "settings": self.settings,
            "rows": rows,
            "length": self.length,
            "tokens": rows * self.length,
            "tokens_dropped": dropped,  # of the last documents: they fill no row
            "missing_tokens": mixture.missing(),  # where the data ended before the budgets were met
            "sources": sources,
            "files": files,
            "input_ids_sha256": digest.hexdigest(),  # over all ids in order, as little-endian int32
            "seconds": round(seconds, 1),
            "tokens_per_second": round(kept / seconds),
            "versions": {"python": platform.python_version()}
            | {name: version(name) for name in ("datasets", "tokenizers", "transformers", "pyarrow", "numpy")},
        }
        write_atomically(self.output / "README.md", card(manifest).encode())
        write_atomically(self.manifest, (json.dumps(manifest, indent=2) + "\n").encode())
        self.progress.unlink(missing_ok=True)
        return manifest


def file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def card(manifest: dict) -> str:
    """The data card: a dataset card of the hub, with what the manifest says."""
    settings = manifest["settings"]
    boundaries = " and `document_starts`, the offsets at which documents begin" * settings["document_boundaries"]
    lines = [
        "---",
        "configs:",
        "- config_name: default",
        '  data_files: "train-*.parquet"',
        "tags:",
        "- long-context",
        "---",
        "",
        f"# {manifest['rows']:,} rows of {manifest['length']:,} tokens",
        "",
        f"Text of `{manifest['dataset']}` ({settings['data']}), tokenised by `{manifest['tokenizer']}`, joined in "
        f"order and cut every {manifest['length']:,} tokens. Columns: `input_ids`{boundaries}.",
        "",
    ]
    if settings["keep_short"] < 1:
        lines += [
            f"Documents of {settings['min_length']:,} tokens or more are all kept, shorter ones with probability "
            f"{settings['keep_short']} (seed {settings['seed']}).",
            "",
        ]
    lines += ["| source | documents read | kept | tokens | share | budget |", "|---|---|---|---|---|---|"]
    for name, source in manifest["sources"].items():
        budget = "–" if source["budget"] is None else f"{source['budget']:,}"
        lines.append(
            f"| {name} | {source['documents_seen']:,} | {source['documents_kept']:,} | {source['tokens']:,} | "
            f"{source['share']:.4f} | {budget} |"
        )
    if manifest["missing_tokens"]:
        lines += ["", f"The data ended early; tokens missing: {manifest['missing_tokens']}."]
    lines += ["", "Made by", "", "```bash", manifest["command"], "```", ""]
    return "\n".join(lines)
