"""Trains the pocket study's base model: a Llama of 0.6 M parameters with a window of 128 tokens, on this CPU.

    python make_base_model.py --output_dir pocket/base

Needs no download: the text is the standard library of the Python that runs it, mixed with generated documents that
state a passkey or a number and ask for it again. Writes an ordinary Llama folder with

    data/corpus.jsonl             documents (`text`, `source`) for prepare_data.py, to extend to --extension_length
    data/heldout/test.bin(.json)  held-out tokens (uint16, BOS before each document) for the evaluations

Rerunning the same command does nothing once the base is finished; the weights depend on the settings only.
"""

import argparse
import random
import sysconfig
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import pocket_corpus as pocket
from checkpoint_writer import claim, move_in
from run import Parser, positive_int, run_key, run_script

THREADS = 2  # the weights depend on it
VOCAB_SIZE = 1024
TOKENS_PER_STEP = 2048
LOOKUP_ROWS = 300  # in corpus.jsonl
HELD_OUT_EVERY = 12  # every 12th document is for evaluation only
RECIPE = 3  # increase it with every change of the model, the recipe or the data, so that no older base is reused
# From easy to hard. until: share of the steps at which a stage ends; window: length of its rows, as a share of the
# window; text: share of rows of plain text, the others are look-up documents with up to `facts` facts; numbers: share
# of numbers among these.
STAGES = (
    {"until": 0.20, "window": 0.5, "text": 0.35, "numbers": 0.3, "facts": 1},
    {"until": 0.50, "window": 0.5, "text": 0.35, "numbers": 0.5, "facts": 2},
    {"until": 0.75, "window": 1.0, "text": 0.60, "numbers": 0.5, "facts": 3},
    {"until": 1.00, "window": 1.0, "text": 0.75, "numbers": 0.5, "facts": 3},
)


def parse_args() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--output_dir", required=True, type=Path)
    parser.add_argument("--corpus_dir", type=Path, default=sysconfig.get_path("stdlib"), help="folder of .py files")
    parser.add_argument("--context_length", type=int, default=128, help="the base's window, tokens")
    parser.add_argument("--extension_length", type=int, default=512, help="row length that corpus.jsonl is for, tokens")
    parser.add_argument("--steps", type=positive_int, default=1150, help=f"steps of {TOKENS_PER_STEP} tokens")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.context_length < 128 or TOKENS_PER_STEP % args.context_length:
        raise ValueError(f"--context_length must be at least 128 and divide the {TOKENS_PER_STEP} tokens of a step")
    if not 0 <= args.seed < 2**63:
        raise ValueError("--seed must be from 0 to 2**63 - 1")
    return args


def make_batch(step: int, args: argparse.Namespace, lookups: pocket.LookupDocuments):
    """(ids_BL int64, weight_BL float32) of a step: rows cut from the text, and look-up documents."""
    stage = next(stage for stage in STAGES if step < stage["until"] * args.steps)
    length = int(stage["window"] * args.context_length)
    rng = random.Random(f"base {args.seed} {step}")
    rows, weights = [], []
    for _ in range(TOKENS_PER_STEP // length):
        if rng.random() < stage["text"]:
            start = rng.randrange(len(lookups.stream_N) - length)
            ids_L = lookups.stream_N[start : start + length]
            weights_L = np.full(length, pocket.TEXT_WEIGHT, dtype=np.float32)
        else:
            facts = rng.randint(1, stage["facts"])
            questions = rng.randint(1, facts)
            if rng.random() < stage["numbers"]:
                ids_L, weights_L = lookups.numbers(rng, length, min(2, facts), 2)
            else:
                ids_L, weights_L = lookups.passkeys(rng, length, facts, questions)
        rows.append(ids_L)
        weights.append(weights_L)
    return torch.from_numpy(np.stack(rows)).long(), torch.from_numpy(np.stack(weights))


def train(model: LlamaForCausalLM, args: argparse.Namespace, lookups: pocket.LookupDocuments) -> None:
    """Trains in place: Muon updates the matrices of the layers, AdamW the embedding and the norms."""
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        group = matrices if parameter.ndim == 2 and "embed" not in name else others
        group.append(parameter)
    muon = torch.optim.Muon(matrices, weight_decay=0.01)
    adamw = torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.0)
    model.train()
    for step in range(args.steps):  # 50 steps of warm-up, constant to 30 % of the run, then linearly down to 5 %
        warmup = min(1.0, (step + 1) / 50)
        decay = 1.0 - 0.95 * max(0.0, (step / args.steps - 0.3) / 0.7)
        factor = min(warmup, decay)
        muon.param_groups[0]["lr"] = 0.015 * factor
        adamw.param_groups[0]["lr"] = 3e-3 * factor
        ids_BL, weight_BL = make_batch(step, args, lookups)
        logits_BLV = model(input_ids=ids_BL, use_cache=False).logits
        loss_T = F.cross_entropy(logits_BLV[:, :-1].flatten(0, 1), ids_BL[:, 1:].flatten(), reduction="none")
        loss = (loss_T * weight_BL[:, 1:].flatten()).sum() / loss_T.numel()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in (muon, adamw):
            optimizer.step()
            optimizer.zero_grad()
        if step % 50 == 0:
            print(f"base model: step {step}/{args.steps}, loss {loss.item():.2f}", flush=True)


def main() -> None:
    args = parse_args()
    texts = pocket.read_corpus(args.corpus_dir)
    settings = vars(args) | {"recipe": RECIPE, "corpus": run_key(texts)}
    del settings["output_dir"], settings["corpus_dir"]
    if claim(args.output_dir, settings):
        print(f"base model: {args.output_dir} is already finished")
        return

    heldout = [texts.pop(name) for name in list(texts)[::HELD_OUT_EVERY]]
    training = list(texts.values())
    tokenizer = pocket.train_tokenizer(training, VOCAB_SIZE)
    lookups = pocket.LookupDocuments(tokenizer, training)

    data = args.output_dir / "data"
    rng = random.Random(f"passkeys {args.seed}")
    lookup_texts = lookups.texts(rng, args.extension_length, LOOKUP_ROWS)
    pocket.write_corpus(texts, lookup_texts, args.seed, data / "corpus.jsonl")
    pocket.write_heldout(heldout, tokenizer, data / "heldout" / "test.bin")

    torch.set_num_threads(THREADS)
    torch.manual_seed(args.seed)
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=args.context_length,
        tie_word_embeddings=True,
        initializer_range=0.06,
        bos_token_id=0,
        eos_token_id=1,
    )
    model = LlamaForCausalLM(config)
    train(model, args, lookups)
    model.generation_config = GenerationConfig(do_sample=False, bos_token_id=0, eos_token_id=1)
    partial = args.output_dir / "base.partial"
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=pocket.BOS, eos_token=pocket.EOS, clean_up_tokenization_spaces=False
    ).save_pretrained(partial)
    model.save_pretrained(partial)
    move_in(partial, args.output_dir)
    print(f"base model: {args.output_dir} is finished")


if __name__ == "__main__":
    run_script(main)
