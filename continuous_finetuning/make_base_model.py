"""Train the pocket study's base model: a 0.6 M parameter Llama with a window of 128 tokens, on this CPU.

    python make_base_model.py --output_dir pocket/base

It is the same command on a laptop, on a GPU machine (the GPU is not used: the model is too small for it) and before
`torchrun fine-tune.py ...`, which continues from the folder written here. Needs no download: the text is the Python
standard library of the interpreter that runs it, mixed with generated documents that state a passkey or a
number and ask for it again. Writes

    config.json, model.safetensors, generation_config.json, tokenizer files    an ordinary Llama folder
    data/corpus.jsonl             documents (`text`, `source`) for prepare_data.py, to continue at --extension_length
    data/heldout/test.bin(.json)  held-out tokens (uint16, BOS before each document) for the evaluations
    base_report.json              measured perplexity and passkey rate, with n, seed and versions

The same command again returns at once if the base is there, and continues if it was killed half-way; the weights
depend only on the settings, not on interruptions.
"""

import argparse
import hashlib
import json
import os
import platform
import random
import shutil
import sys
import sysconfig
import time
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

import pocket_corpus as pocket

TOKENS_PER_STEP = 2048
HEAD_DIM = 32
RECIPE = 2  # to be raised with every change of recipe or data, so that an older base is not taken for this one
# Retrieval is learned from easy to hard: one fact, then two, at half the window; then up to three at the full window.
# until: share of the steps at which a stage ends; window: share of the window its rows have; text: share of rows that
# are plain text, the others are documents with 1 to `facts` facts (numbers: 1 or 2) to be looked up; numbers: share of
# these with numbers in several wordings, the rest has passkeys.
STAGES = [
    {"until": 0.20, "window": 0.5, "text": 0.35, "numbers": 0.3, "facts": 1},
    {"until": 0.50, "window": 0.5, "text": 0.35, "numbers": 0.5, "facts": 2},
    {"until": 0.75, "window": 1.0, "text": 0.60, "numbers": 0.5, "facts": 3},
    {"until": 1.00, "window": 1.0, "text": 0.75, "numbers": 0.5, "facts": 3},
]
# Loss weight of a token by its kind: text, passkey line, the digits asked for. A passkey line is random: learning it
# is wasted, and digits that can be looked up are few, so they count more.
KIND_WEIGHTS = np.array([1.0, 0.2, 6.0], dtype=np.float32)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", required=True, type=Path)
    data = parser.add_argument_group("data")
    data.add_argument("--corpus_dir", type=Path, default=Path(sysconfig.get_path("stdlib")), help="folder of .py files")
    data.add_argument("--vocab_size", type=int, default=1024)
    data.add_argument("--context_length", type=int, default=128, help="tokens; the base's window")
    data.add_argument("--extension_length", type=int, default=512, help="tokens; what corpus.jsonl is for")
    data.add_argument("--passkey_rows", type=int, default=300, help="passkeys and numbers in it, rows of that length")
    model = parser.add_argument_group("model")
    model.add_argument("--hidden_size", type=int, default=128, help=f"heads have {HEAD_DIM}, the MLP is twice as wide")
    model.add_argument("--num_hidden_layers", type=int, default=3)
    training = parser.add_argument_group("training")
    training.add_argument("--steps", type=int, default=1150, help=f"of {TOKENS_PER_STEP} tokens")
    training.add_argument("--seed", type=int, default=0)
    training.add_argument("--threads", type=int, default=2, help="CPU threads")
    training.add_argument("--save_seconds", type=float, default=20, help="seconds between training checkpoints")
    args = parser.parse_args()
    if args.vocab_size < 512 or args.vocab_size > 65536:
        sys.exit(
            "error: --vocab_size must be 512 to 65536 (tokens are stored as uint16, and passkeys need whole words)"
        )
    if args.context_length < 128 or TOKENS_PER_STEP % args.context_length:
        sys.exit(f"error: --context_length must be at least 128 and divide {TOKENS_PER_STEP} (a training step)")
    if args.extension_length <= args.context_length:
        sys.exit("error: --extension_length must be longer than --context_length")
    if args.hidden_size < HEAD_DIM or args.hidden_size % HEAD_DIM:
        sys.exit(f"error: --hidden_size must be a multiple of {HEAD_DIM}")
    if min(args.steps, args.num_hidden_layers, args.passkey_rows, args.threads) < 1 or args.seed < 0:
        sys.exit(
            "error: --steps, --num_hidden_layers, --passkey_rows and --threads must be at least 1, --seed at least 0"
        )
    if not args.corpus_dir.is_dir():
        sys.exit(f"error: no folder {args.corpus_dir}; --corpus_dir takes a folder of .py files")
    return args


def claim(output: Path, settings: dict) -> None:
    """Notes the settings in the folder; exits with one line if it holds a base (or half of one) with others."""
    note = output / "base_settings.json"
    if note.exists():
        held = json.loads(note.read_text())
        for name in [*settings, *held]:
            if held.get(name) != settings.get(name):
                sys.exit(
                    f"error: {output} holds a base with other settings: {name} was {held.get(name)}, now it is "
                    f"{settings.get(name)}. Give another --output_dir, or delete that folder to start anew."
                )
        return
    if (output / "config.json").exists():
        sys.exit(f"error: {output} holds a model that this script did not write; give another --output_dir")
    pocket.write_atomically(note, json.dumps(settings, indent=2).encode())


# ----------------------------------------------------------------------------- training
class Batches:
    """Training batches of the base: each a pure function of (seed, step), so that a resumed run sees the same ones."""

    def __init__(self, documents: list[np.ndarray], words: list[str], tokenizer: Tokenizer, args):
        self.stream_N = np.concatenate(documents)
        self.filler_N = np.concatenate([document[1:] for document in documents])
        self.tokenizer, self.keys, self.words = tokenizer, pocket.passkey_keys(tokenizer), words
        self.args = args

    def row(self, rng: random.Random, length: int, stage: dict) -> tuple[np.ndarray, np.ndarray]:
        """(ids_L, weight_L): one row of text, passkeys or numbers."""
        if rng.random() < stage["text"]:
            start = rng.randrange(len(self.stream_N) - length)
            return self.stream_N[start : start + length], np.ones(length, dtype=np.float32)
        facts = rng.randint(1, stage["facts"])
        questions = rng.randint(1, facts)
        made_of = (self.filler_N, self.tokenizer)
        if rng.random() < stage["numbers"]:
            ids, kinds = pocket.number_document(rng, length, min(2, facts), 2, self.words, *made_of)
        else:
            ids, kinds = pocket.passkey_document(rng, length, facts, questions, self.keys, *made_of)
        return ids, KIND_WEIGHTS[kinds]

    def __call__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """(ids_BL int64, weight_BL float32) of a step."""
        stage = next(stage for stage in STAGES if step < stage["until"] * self.args.steps)
        length = int(stage["window"] * self.args.context_length)
        rng = random.Random(f"base {self.args.seed} {step}")
        rows = [self.row(rng, length, stage) for _ in range(TOKENS_PER_STEP // length)]
        ids_BL, weight_BL = (np.stack(column) for column in zip(*rows, strict=True))
        return ids_BL.astype(np.int64), weight_BL


def learning_rate(step: int, steps: int) -> float:
    """Share of the peak rate: 50 steps of warm-up, flat to 30 % of the run, then linearly down to 5 %."""
    warmup = min(1.0, (step + 1) / 50)
    decay = 1.0 - 0.95 * max(0.0, (step / steps - 0.3) / 0.7)
    return min(warmup, decay)


def new_model(args: argparse.Namespace):
    """A fresh LlamaForCausalLM in fp32."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=args.vocab_size,
        hidden_size=args.hidden_size,
        intermediate_size=2 * args.hidden_size,
        num_hidden_layers=args.num_hidden_layers,
        num_attention_heads=args.hidden_size // HEAD_DIM,
        max_position_embeddings=args.context_length,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        initializer_range=0.06,
        bos_token_id=0,
        eos_token_id=1,
    )
    return LlamaForCausalLM(config)


def train(model, batches: Batches, args: argparse.Namespace, checkpoint: Path) -> float:
    """Trains in place, from the checkpoint if there is one; returns the running mean of the weighted loss.

    Muon moves the hidden matrices, AdamW the embedding and the norms. The checkpoint is replaced every --save_seconds.
    """
    import torch
    import torch.nn.functional as F
    from tqdm import tqdm

    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim < 2 or "embed" in name]
    optimizers = {
        "muon": torch.optim.Muon(matrices, lr=0.015, weight_decay=0.01),
        "adamw": torch.optim.AdamW(others, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0),
    }
    peaks = {name: optimizer.param_groups[0]["lr"] for name, optimizer in optimizers.items()}
    first, loss_mean = 0, None
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        for name, optimizer in optimizers.items():
            optimizer.load_state_dict(state[name])
        first, loss_mean = state["step"], state["loss"]
        print(f"continuing at step {first} of {args.steps}", flush=True)

    def save(step: int) -> None:
        state = {name: optimizer.state_dict() for name, optimizer in optimizers.items()}
        torch.save({"model": model.state_dict(), "step": step, "loss": loss_mean, **state}, f"{checkpoint}.partial")
        os.replace(f"{checkpoint}.partial", checkpoint)

    model.train()
    saved = told = started = time.monotonic()
    bar = tqdm(
        range(first, args.steps), "base", args.steps, initial=first, unit="step", disable=not sys.stdout.isatty()
    )
    for step in bar:
        for name, optimizer in optimizers.items():
            optimizer.param_groups[0]["lr"] = peaks[name] * learning_rate(step, args.steps)
        ids_BL, weight_BL = (torch.from_numpy(array) for array in batches(step))
        logits_BLV = model(input_ids=ids_BL, use_cache=False).logits
        loss_T = F.cross_entropy(logits_BLV[:, :-1].flatten(0, 1), ids_BL[:, 1:].flatten(), reduction="none")
        loss = (loss_T * weight_BL[:, 1:].flatten()).sum() / loss_T.numel()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers.values():
            optimizer.step()
            optimizer.zero_grad()
        loss_mean = loss.item() if loss_mean is None else 0.95 * loss_mean + 0.05 * loss.item()
        now = time.monotonic()
        bar.set_postfix(loss=f"{loss_mean:.2f}", refresh=False)
        if bar.disable and now - told > 10:
            left = (now - started) / (step + 1 - first) * (args.steps - step - 1)
            print(f"base: step {step + 1}/{args.steps}, loss {loss_mean:.2f}, {left:.0f} s left", flush=True)
            told = now
        if now - saved > args.save_seconds or step + 1 == args.steps:
            save(step + 1)
            saved = now
    return loss_mean


# ----------------------------------------------------------------------------- what it can do
def measure_perplexity(model, tokens_N: np.ndarray, lengths: list[int]) -> dict[str, dict]:
    """Perplexity of the same tokens cut into segments of each length: of all targets, and of the last 64 of each."""
    import torch
    import torch.nn.functional as F

    result = {}
    used = min(len(tokens_N), 12 * max(lengths)) // max(lengths) * max(lengths)
    for length in [length for length in lengths if used]:
        loss_BL = []
        for rows_BL in (
            torch.from_numpy(tokens_N[:used].astype(np.int64)).view(-1, length).split(max(1, 8192 // length))
        ):
            logits_BLV = model(input_ids=rows_BL, use_cache=False).logits[:, :-1]
            loss_BL.append(F.cross_entropy(logits_BLV.transpose(1, 2), rows_BL[:, 1:], reduction="none"))
        loss_BL = torch.cat(loss_BL).double()
        mean, last = loss_BL.mean().exp().item(), loss_BL[:, -64:].mean().exp().item()
        result[str(length)] = {"all": mean, "last_64": last, "n": loss_BL.numel()}
    return result


def measure_passkey(model, batches: Batches, filler_N: np.ndarray, lengths: list[int], n: int) -> dict[str, dict]:
    """Share of documents with one fact, held-out text around it, whose 4 digits greedy decoding gets all right."""
    import torch

    result = {}
    for length in [length for length in lengths if length < len(filler_N)]:
        rng, right = random.Random(f"passkey {length}"), 0
        draw = (length, 1, 1, batches.keys, filler_N, batches.tokenizer)
        ids_NL = np.stack([pocket.passkey_document(rng, *draw)[0] for _ in range(n)]).astype(np.int64)
        for ids_BL in torch.from_numpy(ids_NL).split(max(1, 8192 // length)):
            # A document ends with 4 digits and a newline. All digits right with the true ones before them is the same
            # as greedy decoding getting all right.
            logits_BDV = model(input_ids=ids_BL[:, :-2], logits_to_keep=4, use_cache=False).logits
            right += (logits_BDV.argmax(-1) == ids_BL[:, -5:-1]).all(-1).sum().item()
        result[str(length)] = {"exact_match": right / n, "n": n}
    return result


def main() -> None:
    started = time.monotonic()
    args = parse_args()
    documents = pocket.read_corpus(args.corpus_dir)
    settings = {k: v for k, v in vars(args).items() if k not in ("output_dir", "corpus_dir", "threads", "save_seconds")}
    settings["recipe"] = RECIPE
    settings["corpus_sha256"] = pocket.corpus_sha256(documents)
    output = args.output_dir
    claim(output, settings)
    finished = (output / "config.json").exists()  # it is moved in last
    corpus_path = output / "data" / "corpus.jsonl"
    test_path = output / "data" / "heldout" / "test.bin"
    data_paths = [corpus_path, test_path, test_path.with_name("test.bin.json")]
    work = output / "unfinished"
    if finished:
        shutil.rmtree(work, ignore_errors=True)
        if all(path.exists() for path in data_paths):
            print(f"base model: {output} is finished, nothing to do")
            return

    # --- text and tokenizer
    print(f"base model: reading {len(documents)} documents of {args.corpus_dir}", flush=True)
    training_texts, heldout_texts = pocket.split_corpus(documents)
    if finished:
        tokenizer = Tokenizer.from_file(str(output / "tokenizer.json"))
    else:
        tokenizer = pocket.train_tokenizer(list(training_texts.values()), args.vocab_size)
    training = pocket.encode_documents(tokenizer, list(training_texts.values()))
    heldout = pocket.encode_documents(tokenizer, list(heldout_texts.values()))
    batches = Batches(training, pocket.common_words(list(training_texts.values())), tokenizer, args)
    if min(len(batches.keys), len(batches.words) // 5) < 6 or tokenizer.get_vocab_size() != args.vocab_size:
        sys.exit(f"error: {args.corpus_dir} has too little text for --vocab_size {args.vocab_size}")
    print(f"{sum(map(len, training)):,} tokens to train on, {sum(map(len, heldout)):,} held out", flush=True)

    # --- files for the other stages
    rng = random.Random(f"passkeys {args.seed}")
    drawn = (args.extension_length, args.passkey_rows, batches.keys, batches.words, batches.filler_N, tokenizer)
    pocket.write_corpus(training_texts, pocket.passkey_texts(rng, *drawn), args.seed, corpus_path)
    pocket.write_heldout(heldout, tokenizer, test_path)
    if finished:
        print(f"base model: {output} is finished; its data files were missing and are written again")
        return

    # --- model
    # OpenMP threads spin while they wait: briefly is fastest, as long as they do by default starves a busy machine.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # read when torch is loaded
    import torch
    import transformers

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    model = new_model(args)
    print(
        f"{model.num_parameters() / 1e6:.2f} M parameters, {args.steps} steps of {TOKENS_PER_STEP} tokens", flush=True
    )
    work.mkdir(exist_ok=True)
    loss = train(model, batches, args, work / "checkpoint.pt")

    # --- measure, save
    model.eval()
    lengths = [args.context_length * factor // 2 for factor in (1, 2, 4, 8, 16, 32)]
    with torch.inference_mode():
        tokens_N = np.fromfile(test_path, dtype="<u2")
        perplexity = measure_perplexity(model, tokens_N, lengths)
        filler_N = tokens_N[tokens_N != tokenizer.token_to_id(pocket.BOS)]
        passkey = measure_passkey(model, batches, filler_N, lengths[1:5], 100)
    for length, value in perplexity.items():
        print(
            f"length {length:>5}: perplexity {value['all']:6.1f}, of the last 64 tokens {value['last_64']:6.1f}", end=""
        )
        print(f", passkey {passkey[length]['exact_match']:.2f}" if length in passkey else "")
    report = {
        "source": "standin",
        "dataset": "python stdlib held-out files",
        "seed": args.seed,
        "perplexity": perplexity,
        "passkey": passkey,
        "training_loss": loss,
        "trained_tokens": args.steps * TOKENS_PER_STEP,
        "parameters": model.num_parameters(),
        "threads": args.threads,
        "seconds": round(time.monotonic() - started, 1),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    report["versions"]["transformers"] = transformers.__version__

    final = work / "model"
    transformers.utils.logging.disable_progress_bar()
    model.generation_config = transformers.GenerationConfig(do_sample=False, bos_token_id=0, eos_token_id=1)
    model.save_pretrained(final)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=pocket.BOS, eos_token=pocket.EOS, clean_up_tokenization_spaces=False
    ).save_pretrained(final)
    pocket.write_atomically(final / "base_report.json", json.dumps(report, indent=2).encode())
    for path in sorted(final.iterdir(), key=lambda path: path.name == "config.json"):
        os.replace(path, output / path.name)
    shutil.rmtree(work)
    digest = hashlib.sha256((output / "model.safetensors").read_bytes()).hexdigest()
    print(f"base model: {output} finished in {report['seconds']:.0f} s (weights sha256 {digest[:16]})")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command continues")
