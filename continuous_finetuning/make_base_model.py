"""Trains the pocket study's base model on this CPU: a Llama of 2 M parameters with a window of 256 tokens.

    python make_base_model.py --output_dir pocket/base --steps 300       a short trial: minutes on one core
    python make_base_model.py --output_dir pocket/base --fast            makes pocket_base/: 100 minutes

Needs no download: the text is the standard library of the Python that runs it, and its docstrings, mixed with generated
documents of seven tasks (pocket_tasks.py). Writes an ordinary Llama folder, and training_log.jsonl in it with the loss
on text and the share of right answers of each task, all on data that is drawn for the first time.

Rerun the same command to resume. The weights depend on the settings and the Python, with --fast in their last bits on
the machine, too.
"""

import json
import math
import os
import sysconfig
from collections import defaultdict
from pathlib import Path

from run import Parser, int_between, positive_int, run_key, run_script

import numpy as np
import torch
import torch.nn.functional as F
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import pocket_corpus as pocket
from checkpoint_writer import claim, move_in

VOCAB_SIZE = 4096
TOKENS_PER_STEP = 4096
LOG_STEPS, SAVE_STEPS = 100, 200
LOGITS_STEP = 512
RECIPE = 7  # increase it with every change of the model, the recipe or the data, so that no older base is reused
MUON_RATE, ADAMW_RATE = 0.015, 3e-3
# From easy to hard. until: the step at which a stage ends; window: length of its rows, as a share of the window;
# easiest, level: levels of the easiest documents [0] and of the hardest; shares: of the rows; in_turn: see Draw [True].
ALL_TASKS = {"text": 0.21, **pocket.TASK_SHARES}
LAST_TASKS = {**ALL_TASKS, "copy": 0.02, "lookup": 0.3, "classify": 0.24, "passage": 0.04, "frequent": 0.04}
STAGES = (
    {"until": 800, "window": 0.25, "level": 0.1, "shares": {"text": 0.2, "copy": 0.45, "lookup": 0.35}},
    {"until": 2400, "window": 0.5, "level": 0.4, "shares": ALL_TASKS},
    {"until": 4800, "window": 1.0, "level": 1.0, "shares": ALL_TASKS},
    {"until": 6600, "window": 1.0, "level": 1.0, "shares": ALL_TASKS, "in_turn": False},
    {"until": math.inf, "window": 1.0, "easiest": 0.5, "level": 1.0, "shares": LAST_TASKS, "in_turn": False},
)


def make_batch(step: int, args, corpus, rows) -> tuple:
    """(kind of each row, ids_BL int64, weights_BL float32, answers_BL) of a step."""
    stage = next(stage for stage in STAGES if step < stage["until"])
    length = int(stage["window"] * args.context_length)
    draw = corpus.draw(f"base {args.seed} {step}")
    draw.in_turn = stage.get("in_turn", True)
    shares = stage["shares"]
    kinds = draw.choices(list(shares), weights=shares.values(), k=TOKENS_PER_STEP // length)
    batch = []
    for kind in kinds:
        if kind == "text":
            row = rows.text_row(draw, length)
        else:
            level = draw.uniform(stage.get("easiest", 0.0), stage["level"])
            row = rows.task_row(draw, kind, length, level)
        batch.append(row)
    ids_BL, weights_BL, answers_BL = map(np.stack, zip(*batch, strict=True))
    ids_BL = torch.from_numpy(ids_BL).long()
    return kinds, ids_BL, torch.from_numpy(weights_BL), answers_BL


class Log:
    """Collects the loss on text and the share of right answers of each task; an answer is right as a whole."""

    def __init__(self):
        self.text_losses = []
        self.right_answers = defaultdict(list)

    def add(self, kinds, losses_BL, right_BL, answers_BL) -> None:
        for kind, losses_L, right_L, answers_L in zip(kinds, losses_BL, right_BL, answers_BL, strict=True):
            if kind == "text":
                self.text_losses.append(losses_L.mean())
            for number in range(answers_L.max() + 1):
                self.right_answers[kind].append(right_L[answers_L == number].all())

    def describe(self, step: int) -> dict:
        text_loss = float(np.mean(self.text_losses))
        record = {"step": step, "tokens": step * TOKENS_PER_STEP, "text_loss": round(text_loss, 3)}
        for task, right in sorted(self.right_answers.items()):
            record[task] = round(float(np.mean(right)), 3)
        return record


def compute_loss(model, decoder, ids_BL, weights_BM, bf16: bool) -> tuple:
    """The weighted mean loss of all tokens but the first of each row; logits are computed where weights are not 0.

    decoder: `model.model`, or what torch.compile makes of it.  weights_BM: float32, one column less than ids_BL.
    Returns (loss with gradient, losses_BM float32, right_BM bool: the likeliest token is the right one).
    """
    counts_BM = weights_BM != 0
    counted_T = counts_BM.flatten().nonzero()[:, 0]
    # A multiple of LOGITS_STEP: oneDNN keeps memory for every size that it has seen
    padded_T = F.pad(counted_T, (0, -len(counted_T) % LOGITS_STEP))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        hidden_BMD = decoder(input_ids=ids_BL, use_cache=False).last_hidden_state[:, :-1]
        hidden_TD = hidden_BMD.flatten(0, 1)[padded_T]
        logits_TV = model.lm_head(hidden_TD)[: len(counted_T)]
    targets_T = ids_BL[:, 1:][counts_BM]
    losses_T = F.cross_entropy(logits_TV.float(), targets_T, reduction="none")
    loss = (losses_T * weights_BM[counts_BM]).sum() / weights_BM.numel()
    losses_BM = torch.zeros_like(weights_BM)
    losses_BM[counts_BM] = losses_T.detach()
    right_BM = torch.zeros_like(counts_BM)
    right_BM[counts_BM] = logits_TV.argmax(-1) == targets_T
    return loss, losses_BM, right_BM


def train(model, args, corpus, rows) -> None:
    """Trains in place: Muon updates the matrices of the layers, AdamW the embedding and the norms."""
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        group = matrices if parameter.ndim == 2 and "embed" not in name else others
        group.append(parameter)
    muon = torch.optim.Muon(matrices, weight_decay=0.01)
    adamw = torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.0)
    parts = {"model": model, "muon": muon, "adamw": adamw}
    log_path = args.output_dir / "training_log.jsonl"
    state_path = args.output_dir / "state.pt"
    first_step = load_state(state_path, parts, log_path)
    log = Log()
    model.train()
    decoder = torch.compile(model.model, dynamic=False) if args.fast else model.model
    for step in range(first_step, args.steps):  # 50 steps of warm-up, constant for 30 % of the run, then down to 3 %
        warmup = min(1.0, (step + 1) / 50)
        decay = 1.0 - 0.97 * max(0.0, step / args.steps - 0.3) / 0.7
        kinds, ids_BL, weights_BL, answers_BL = make_batch(step, args, corpus, rows)
        loss, losses_BM, right_BM = compute_loss(model, decoder, ids_BL, weights_BL[:, 1:], args.fast)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, rate in ((muon, MUON_RATE), (adamw, ADAMW_RATE)):
            optimizer.param_groups[0]["lr"] = rate * warmup * decay
            optimizer.step()
            optimizer.zero_grad()
        log.add(kinds, losses_BM.numpy(), right_BM.numpy(), answers_BL[:, 1:])
        done = step + 1
        if done % LOG_STEPS == 0 or done == args.steps:
            record = log.describe(done)
            log = Log()
            print(f"base model, {args.steps} steps: {record}", flush=True)
            with log_path.open("a", encoding="utf-8") as file:
                print(json.dumps(record), file=file)
        if done % SAVE_STEPS == 0:
            save_state(state_path, parts, done, log_path)
    state_path.unlink(missing_ok=True)


def save_state(path: Path, parts: dict, step: int, log_path: Path) -> None:
    """Replaces the state to resume from in one step."""
    state = {name: part.state_dict() for name, part in parts.items()}
    state["step"] = step
    state["log"] = log_path.read_text(encoding="utf-8")
    partial = path.with_suffix(".partial.pt")
    torch.save(state, partial)
    os.replace(partial, path)


def load_state(path: Path, parts: dict, log_path: Path) -> int:
    """Restores the last state, if there is one; returns the number of steps done."""
    log_path.unlink(missing_ok=True)
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    log_path.write_text(state["log"], encoding="utf-8")
    print(f"base model: resumes after step {state['step']}")
    return state["step"]


def make_model(context_length: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=160,
        intermediate_size=480,
        num_hidden_layers=4,
        num_attention_heads=5,
        max_position_embeddings=context_length,
        tie_word_embeddings=True,
        initializer_range=0.06,
        bos_token_id=0,
        eos_token_id=1,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(do_sample=False, bos_token_id=0, eos_token_id=1)
    return model


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--output_dir", required=True, type=Path)
    parser.add_argument("--corpus_dir", type=Path, default=sysconfig.get_path("stdlib"), help="folder of .py files")
    parser.add_argument("--context_length", type=int, default=256, help="the base's window, tokens [256]")
    parser.add_argument("--steps", type=positive_int, default=9000, help=f"steps of {TOKENS_PER_STEP} tokens [9000]")
    fast = "compile, and compute in bfloat16: for CPUs with AMX; needs a C++ compiler"
    parser.add_argument("--fast", action="store_true", help=fast)
    parser.add_argument("--seed", type=int_between(0, 2**63 - 1), default=0)
    args = parser.parse_args()
    if args.context_length < 256 or TOKENS_PER_STEP % args.context_length:
        raise ValueError(f"--context_length must be at least 256 and divide the {TOKENS_PER_STEP} tokens of a step")

    corpus = pocket.Corpus(args.corpus_dir)
    settings = {"recipe": RECIPE, "corpus": run_key(corpus.sources)}
    for name in ("context_length", "steps", "fast", "seed"):
        settings[name] = getattr(args, name)
    if claim(args.output_dir, settings):
        print(f"base model: {args.output_dir} is already finished")
        return

    torch.set_num_threads(1)  # the weights depend on it
    torch.manual_seed(args.seed)
    tokenizer = pocket.train_tokenizer(corpus, VOCAB_SIZE)
    model = make_model(args.context_length)
    train(model, args, corpus, pocket.Rows(tokenizer, corpus.texts))
    partial = args.output_dir / "base.partial"
    special = {"bos_token": pocket.BOS, "eos_token": pocket.EOS, "clean_up_tokenization_spaces": False}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(partial)
    model.to(torch.bfloat16).save_pretrained(partial)
    move_in(partial, args.output_dir)
    print(f"base model: {args.output_dir} is finished")


if __name__ == "__main__":
    run_script(main)
