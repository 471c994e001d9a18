"""Times continuous_finetuning/prepare_data.py: tokens a second, and a second and core, with 1 and 2 workers.

    python benchmarks/prepare_data.py                       (CPU: 20 M tokens of this Python's own library)
    python benchmarks/prepare_data.py --workers 1 8 16

The text is the standard library of this interpreter, repeated until there is enough; the tokenizer a BPE of 32,000
entries trained on it, kept with the text in the temporary folder for the next time. Each build is a process of its own
that joins all documents into rows of 32,768 tokens; its seconds are all it takes once the tokenizer is loaded, the
start of the workers and the hashing of the result included. CPU seconds are those of the process and its workers.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from datetime import date
from importlib.metadata import version
from pathlib import Path

STAGE = Path(__file__).resolve().parents[1] / "continuous_finetuning"
sys.path.insert(0, str(STAGE))
import pocket_corpus as pocket  # noqa: E402

VOCABULARY = 32000


def prepare(folder: Path, tokens: int) -> int:
    """Makes tokenizer and text.jsonl in the folder unless they are there; returns the bytes of text."""
    from transformers import PreTrainedTokenizerFast

    texts = list(pocket.read_corpus(Path(sysconfig.get_path("stdlib"))).values())
    if not (folder / "tokenizer.json").exists():
        print("training the tokenizer", flush=True)
        tokenizer = pocket.train_tokenizer(texts, VOCABULARY)
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=pocket.BOS).save_pretrained(folder)
    size = 0
    with (folder / "text.jsonl").open("w") as file:
        while size < 4.5 * tokens:  # at 3 to 4 bytes a token
            for text in texts:
                size += len(text.encode())
                file.write(json.dumps({"text": text}) + "\n")
    return size


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--tokens", type=int, default=20_000_000)
    args = parser.parse_args()
    folder = Path(tempfile.gettempdir()) / "prepare_data_benchmark"
    folder.mkdir(exist_ok=True)
    prepare(folder, args.tokens)
    versions = ", ".join(f"{name} {version(name)}" for name in ("tokenizers", "datasets", "pyarrow"))
    print(f"{date.today()}, CPU, {os.cpu_count()} cores (load {os.getloadavg()[0]:.1f}), {versions}, ", end="")
    print(f"Python {platform.python_version()}, BPE of {VOCABULARY:,}, `python benchmarks/prepare_data.py`:\n")
    print("| workers | tokens | seconds | tokens/s | tokens/s/worker | tokens/CPU second | input_ids |")
    print(7 * "|---" + "|")
    for workers in args.workers:
        output = folder / "rows"
        shutil.rmtree(output, ignore_errors=True)
        command = [sys.executable, "prepare_data.py", "--dataset", folder / "text.jsonl", "--tokenizer", folder]
        command += ["--length", 32768, "--total_tokens", args.tokens, "--output_dir", output, "--workers", workers]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([str(word) for word in command], cwd=STAGE, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"error: the build failed:\n{done.stdout}{done.stderr}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        manifest = json.loads((output / "manifest.json").read_text())
        rate = manifest["tokens_per_second"]
        cells = [str(workers), f"{manifest['tokens']:,}", f"{manifest['seconds']:.1f}", f"{rate:,}"]
        cells += [f"{rate / workers:,.0f}", f"{manifest['tokens'] / cpu:,.0f}", manifest["input_ids_sha256"][:8]]
        print("|", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
