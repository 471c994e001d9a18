"""Trains the pocket study's base model: a 0.6 M parameter Llama with a window of 128 tokens, on this CPU.

    python make_base_model.py --output_dir pocket/base

The GPU of a machine is not used: the model is too small for it. Needs no download: the text is the Python standard
library of the interpreter that runs it, mixed with generated documents that state a passkey or a number and ask for it
again. Writes

    config.json, model.safetensors, generation_config.json, tokenizer files    an ordinary Llama folder
    data/corpus.jsonl             documents (`text`, `source`) for prepare_data.py, to continue at --extension_length
    data/heldout/test.bin(.json)  held-out tokens (uint16, BOS before each document) for the evaluations

Running the same command again does nothing once the base is finished; the weights depend on the settings only.
"""

import os

# OpenMP threads spin while they wait: briefly is fastest, as long as they do by default slows down a busy machine
os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # read when torch is loaded

import argparse  # noqa: E402
import hashlib  # noqa: E402
import random  # noqa: E402
import sysconfig  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast  # noqa: E402
from transformers.utils import logging  # noqa: E402

import pocket_corpus as pocket  # noqa: E402
from checkpoint_writer import claim, move_in  # noqa: E402
from run import run_script  # noqa: E402

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


def parse_flags() -> argparse.Namespace:
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
    args = parser.parse_args()
    if not 512 <= args.vocab_size <= 65536:
        raise ValueError(
            "--vocab_size must be 512 to 65536: tokens are stored as uint16, and passkeys need whole words"
        )
    if args.context_length < 128 or TOKENS_PER_STEP % args.context_length:
        raise ValueError(f"--context_length must be at least 128 and divide {TOKENS_PER_STEP} (a training step)")
    if args.extension_length <= args.context_length:
        raise ValueError("--extension_length must be longer than --context_length")
    if args.hidden_size % HEAD_DIM:
        raise ValueError(f"--hidden_size must be a multiple of {HEAD_DIM}")
    return args


class Batches:
    """Training batches of the base: each is a pure function of (seed, step)."""

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


def new_model(args: argparse.Namespace) -> LlamaForCausalLM:
    """A fresh model in float32."""
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


def train(model: LlamaForCausalLM, batches: Batches, steps: int) -> None:
    """Trains in place: Muon moves the hidden matrices, AdamW the embedding and the norms."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim < 2 or "embed" in name]
    muon = torch.optim.Muon(matrices, lr=0.015, weight_decay=0.01)
    adamw = torch.optim.AdamW(others, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0)
    peaks = [(optimizer, optimizer.param_groups[0]["lr"]) for optimizer in (muon, adamw)]
    model.train()
    printed = started = time.monotonic()
    for step in range(steps):
        for optimizer, peak in peaks:
            optimizer.param_groups[0]["lr"] = peak * learning_rate(step, steps)
        ids_BL, weight_BL = (torch.from_numpy(array) for array in batches(step))
        logits_BLV = model(input_ids=ids_BL, use_cache=False).logits
        loss_T = F.cross_entropy(logits_BLV[:, :-1].flatten(0, 1), ids_BL[:, 1:].flatten(), reduction="none")
        loss = (loss_T * weight_BL[:, 1:].flatten()).sum() / loss_T.numel()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, _ in peaks:
            optimizer.step()
            optimizer.zero_grad()
        now = time.monotonic()
        if now - printed > 10:
            printed, left = now, (now - started) / (step + 1) * (steps - step - 1)
            print(f"base: step {step + 1}/{steps}, loss {loss.item():.2f}, {left:.0f} s left", flush=True)


def main() -> None:
    started = time.monotonic()
    args = parse_flags()
    output = args.output_dir
    documents = pocket.read_corpus(args.corpus_dir)
    settings = {
        name: value for name, value in vars(args).items() if name not in ("output_dir", "corpus_dir", "threads")
    }
    settings |= {"recipe": RECIPE, "corpus_sha256": pocket.corpus_sha256(documents)}
    if claim(output, settings):
        print(f"base model: {output} is already finished")
        return

    # --- text and tokenizer
    print(f"base model: reading {len(documents)} documents of {args.corpus_dir}", flush=True)
    training_texts, heldout_texts = pocket.split_corpus(documents)
    tokenizer = pocket.train_tokenizer(list(training_texts.values()), args.vocab_size)
    training = pocket.encode_documents(tokenizer, list(training_texts.values()))
    heldout = pocket.encode_documents(tokenizer, list(heldout_texts.values()))
    batches = Batches(training, pocket.common_words(list(training_texts.values())), tokenizer, args)
    if min(len(batches.keys), len(batches.words) // 5) < 6 or tokenizer.get_vocab_size() != args.vocab_size:
        raise ValueError(f"{args.corpus_dir} has too little text for --vocab_size {args.vocab_size}")
    print(f"{sum(map(len, training)):,} tokens to train on, {sum(map(len, heldout)):,} held out", flush=True)

    # --- files for the other stages
    rng = random.Random(f"passkeys {args.seed}")
    drawn = (args.extension_length, args.passkey_rows, batches.keys, batches.words, batches.filler_N, tokenizer)
    corpus_path = output / "data" / "corpus.jsonl"
    pocket.write_corpus(training_texts, pocket.passkey_texts(rng, *drawn), args.seed, corpus_path)
    pocket.write_heldout(heldout, tokenizer, output / "data" / "heldout" / "test.bin")

    # --- model
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    model = new_model(args)
    size = model.num_parameters() / 1e6
    print(f"{size:.2f} M parameters, {args.steps} steps of {TOKENS_PER_STEP} tokens", flush=True)
    train(model, batches, args.steps)
    logging.disable_progress_bar()
    model.generation_config = GenerationConfig(do_sample=False, bos_token_id=0, eos_token_id=1)
    partial = output / "model.partial"
    model.save_pretrained(partial)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=pocket.BOS, eos_token=pocket.EOS, clean_up_tokenization_spaces=False
    ).save_pretrained(partial)
    move_in(partial, output)
    digest = hashlib.sha256((output / "model.safetensors").read_bytes()).hexdigest()
    print(f"base model: {output} finished in {time.monotonic() - started:.0f} s (weights sha256 {digest[:16]})")


if __name__ == "__main__":
    run_script(main)
