"""The training loop of the study: Transformers' Trainer, made to resume by itself and to write whole checkpoints."""

import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.integrations import is_deepspeed_zero3_enabled

import checkpoint

METRICS = "metrics.jsonl"


def recipe(args: TrainingArguments, dataset_dir: str, n_rows: int) -> dict:
    """The settings that decide the trained weights, recorded in the checkpoint and compared on a rerun."""
    return {
        "dataset": dataset_dir,
        "rows": n_rows,
        "global_batch": args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size,
        "num_train_epochs": args.num_train_epochs,
        "max_steps": args.max_steps,
        "learning_rate": args.learning_rate,
        "lr_scheduler_type": str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)),
        "warmup_steps": args.warmup_steps,
        "weight_decay": args.weight_decay,
        "max_grad_norm": args.max_grad_norm,
        "optim": str(getattr(args.optim, "value", args.optim)),
        "precision": "bfloat16" if args.bf16 else "float32",
        "seed": args.seed,
    }


def prepare_wandb(say) -> None:
    """Keeps a run without a wandb login from stopping at a prompt: it is then recorded offline."""
    try:
        import wandb
    except ImportError:
        raise SystemExit("error: --use_wandb needs the package: pip install wandb") from None
    os.environ.setdefault("WANDB_PROJECT", "long_extension")
    if "WANDB_MODE" not in os.environ and not wandb.api.api_key:
        os.environ["WANDB_MODE"] = "offline"
        say("--use_wandb: not logged in to Weights & Biases, recording offline (log in with: wandb login)")


def collate(examples: list[dict]) -> dict:
    """Rows of token ids to a batch, ids and labels int64 [batch, length]; the model shifts the labels itself."""
    ids_BL = torch.tensor([example["input_ids"] for example in examples])
    return {"input_ids": ids_BL, "labels": ids_BL}


def last_whole_checkpoint(output: Path) -> Path | None:
    """The newest checkpoint-N in `output` that was written to its end, or None.

    Trainer writes trainer_state.json after weights, optimizer and random state, so a folder in which that file is
    missing or cut off was being written when the run died.
    """
    found = []
    for folder in output.glob("checkpoint-*"):
        if re.fullmatch(r"checkpoint-\d+", folder.name):
            try:
                found.append((json.loads((folder / "trainer_state.json").read_text())["global_step"], folder))
            except (OSError, ValueError, KeyError):
                continue
    return max(found)[1] if found else None


class Metrics(TrainerCallback):
    """Appends every log to metrics.jsonl and prints a line now and then."""

    def __init__(self, path: Path):
        self.path, self.printed = path, 0.0

    def on_train_begin(self, args, state, control, **kwargs):
        self.started, self.first_step = time.time(), state.global_step
        if state.is_world_process_zero and self.path.exists():
            # steps after the checkpoint are done again; a line cut off by a kill is one of them
            lines = [line for line in self.path.read_text().splitlines() if line.endswith("}")]
            kept = [line for line in lines if json.loads(line)["step"] <= state.global_step]
            partial = self.path.with_suffix(".partial")
            partial.write_text("".join(line + "\n" for line in kept))
            os.replace(partial, self.path)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero or "loss" not in logs:
            return
        with self.path.open("a") as file:
            file.write(json.dumps({"step": state.global_step, **logs}) + "\n")
        now = time.time()
        if now - self.printed > 5 or state.global_step == state.max_steps:
            self.printed = now
            seconds = (now - self.started) / max(1, state.global_step - self.first_step)
            left = seconds * (state.max_steps - state.global_step)
            print(
                f"  {self.path.parent.name}  step {state.global_step}/{state.max_steps}  loss {logs['loss']:.3f}  "
                f"{seconds:.2f} s a step  {left / 60:.1f} min left",
                flush=True,
            )


class ExtensionTrainer(Trainer):
    def save_model(self, output_dir=None, _internal_call=False):
        """Every checkpoint is a model for use: it says how many tokens it has seen and decodes with a cache."""
        config = self.accelerator.unwrap_model(self.model).config  # of the base under LoRA, too
        config.context_extension["trained_tokens"] = int(self.state.num_input_tokens_seen)
        config.use_cache = True
        super().save_model(output_dir, _internal_call)
        config.use_cache = False


def whole(model):
    """A context in which every rank holds all of the weights, which ZeRO-3 otherwise leaves in pieces."""
    if not is_deepspeed_zero3_enabled():
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(list(model.parameters()))


def train(model, tokenizer, data, args: TrainingArguments, finish: Callable) -> None:
    """Trains `model` on `data` ({"input_ids": row}) and leaves the finished checkpoint in args.output_dir.

    Goes on from the last whole checkpoint there. finish(trained model, folder) gives the model to save, and may put
    files of its own into the folder. The finished files are moved in one by one, config.json last.
    """
    output = Path(args.output_dir)
    resume = last_whole_checkpoint(output)
    if args.should_save:
        for folder in output.glob("checkpoint-*"):
            if resume is None or int(folder.name.split("-")[1]) > int(resume.name.split("-")[1]):
                print(f"removing {folder}: it was being written when the run stopped", flush=True)
                shutil.rmtree(folder)
    trainer = ExtensionTrainer(
        model=model,
        args=args,
        train_dataset=data,
        data_collator=collate,
        processing_class=tokenizer,
        callbacks=[Metrics(output / METRICS)],
    )
    trainer.remove_callback(PrinterCallback)  # Metrics prints
    logging.getLogger("transformers.trainer_utils").setLevel(logging.ERROR)  # it warns of mtimes at every save
    if resume and args.should_save:
        print(f"going on from {resume}", flush=True)
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)

    partial = output / "final.partial"
    partial.mkdir(exist_ok=True)
    with whole(model):
        final = finish(model, partial)
        if args.bf16 and not args.deepspeed:
            final.to(torch.bfloat16)
        if final is not model and args.should_save:
            final.config.context_extension["trained_tokens"] = int(trainer.state.num_input_tokens_seen)
            final.config.use_cache = True
            final.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
    if final is model:
        trainer.save_model(str(partial))
    if args.should_save:
        (partial / "training_args.bin").unlink(missing_ok=True)  # a pickle; run.json says the same
        checkpoint.move_in(partial, output)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
