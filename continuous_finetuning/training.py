"""The training loop of the study: Transformers' Trainer, made to resume by itself, to stop cleanly, and to write whole
checkpoints."""

import contextlib
import errno
import json
import logging
import os
import re
import shutil
import signal
import sys
from functools import partial
from pathlib import Path

import torch
from accelerate.data_loader import prepare_data_loader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.trainer_utils import rotate_checkpoints

import checkpoint
import estimate
import tracking

WHOLE = "whole.json"  # written into a checkpoint-N when every rank has written its part
ADVICE = "a lower --learning_rate or more --warmup_steps may help, in another --output_dir"


def recipe(args: TrainingArguments, model_args, n_rows: int) -> dict:
    """The settings that decide the trained weights, recorded in the checkpoint and compared on a rerun."""
    data_ranks = args.world_size // model_args.sequence_parallel_size
    masked = {"document_mask": True} if model_args.document_mask else {}
    return masked | {
        "dataset": model_args.dataset_dir,
        "rows": n_rows,
        "global_batch": args.per_device_train_batch_size * args.gradient_accumulation_steps * data_ranks,
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


def collate(examples: list[dict], part: int = 0, parts: int = 1) -> dict:
    """Rows of token ids to a batch, all int64 [B, L]: ids and labels, which the model shifts itself.

    Where rows come with `document_starts`, positions begin anew with each document: that is how Transformers' masks and
    flash attention know them apart. Relative distances, all that rope sees, are the same. Where ranks share a row, this
    one gets part `part` of `parts`, [B, L / parts], of ids, labels that are shifted already, and positions.
    """
    ids_BL = torch.tensor([example["input_ids"] for example in examples])
    position_BL = torch.arange(ids_BL.shape[1]).repeat(len(examples), 1)
    if parts > 1:
        shifted_BL = torch.nn.functional.pad(ids_BL[:, 1:], (0, 1), value=-100)
        whole = {"input_ids": ids_BL, "shift_labels": shifted_BL, "position_ids": position_BL}
        return {name: x_BL.chunk(parts, dim=1)[part].contiguous() for name, x_BL in whole.items()}
    if "document_starts" not in examples[0]:
        return {"input_ids": ids_BL, "labels": ids_BL}
    for position_L, example in zip(position_BL, examples, strict=True):
        for start in example["document_starts"]:
            position_L[start:] = torch.arange(len(position_L) - start)
    return {"input_ids": ids_BL, "labels": ids_BL, "position_ids": position_BL}


def last_whole_checkpoint(output: Path) -> Path | None:
    """The newest checkpoint-N in `output` that every rank wrote to its end, or None."""
    found = []
    for folder in output.glob("checkpoint-*"):
        if re.fullmatch(r"checkpoint-\d+", folder.name) and (folder / WHOLE).exists():
            found.append((int(folder.name.split("-")[1]), folder))
    return max(found)[1] if found else None


def clear_unfinished(output: Path) -> None:
    """Removes the checkpoints that were being written when the run stopped."""
    for folder in output.glob("checkpoint-*"):
        if not (folder / WHOLE).exists():
            print(f"removing {folder}: it was being written when the run stopped", flush=True)
            shutil.rmtree(folder)


def any_rank(flag, device) -> bool:
    """Is `flag`, a bool or a tensor of one, true on any rank? Every rank must ask."""
    if not torch.distributed.is_initialized():
        return bool(flag)
    value = torch.as_tensor(flag, dtype=torch.int32, device=device).reshape(1)
    torch.distributed.all_reduce(value, op=torch.distributed.ReduceOp.MAX)
    return bool(value.item())


def leave(message: str):
    """Ends this rank with exit status 1; the first prints the line."""
    if int(os.environ.get("RANK", 0)) == 0:
        print(message, file=sys.stderr, flush=True)
    raise SystemExit(1)


class StopOnSignal(TrainerCallback):
    """After SIGTERM, which a cluster sends before it takes a job's machines, or a first Ctrl-C: a checkpoint at the end
    of the step."""

    def __init__(self):
        self.received, self.stopped = None, False

    def on_train_begin(self, args, state, control, **kwargs):
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.receive)

    def receive(self, number, _):
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second Ctrl-C ends it at once
        self.received = signal.Signals(number).name

    def on_step_end(self, args, state, control, **kwargs):
        if any_rank(self.received is not None, args.device) and state.global_step < state.max_steps:
            self.stopped = control.should_save = control.should_training_stop = True


class ExtensionTrainer(Trainer):
    """parts: ranks that share each row. metrics: what adds the speed to every log."""

    loss_is_bad = False  # has a loss of this step been no finite number?

    def __init__(self, parts: int, metrics: tracking.Metrics, **kwargs):
        self.metrics = metrics
        super().__init__(**kwargs)
        if parts > 1:
            # The libraries' way gives each rank a row and then cuts it; a run cannot be resumed there. Here ranks that
            # share rows read the same ones and `collate` takes this rank's part.
            self.data_collator = partial(collate, part=self.args.process_index % parts, parts=parts)
            self.accelerator.prepare_data_loader = partial(self.loader_of_shared_rows, parts)
            self.accelerator.deepspeed_ulysses_dl_adapter = lambda loader, model: loader
            self.get_sp_size = lambda: 1  # the loader has as many batches as it says

    def loader_of_shared_rows(self, parts: int, loader, device_placement=None, slice_fn_for_dispatch=None):
        a = self.accelerator
        prepared = prepare_data_loader(
            loader,
            a.device,
            num_processes=a.num_processes // parts,
            process_index=a.process_index // parts,
            put_on_device=True,
            rng_types=a.rng_types.copy(),
            even_batches=a.even_batches,
            use_seedable_sampler=a.use_seedable_sampler,
        )
        a._dataloaders.append(prepared)
        return prepared

    def compute_loss(self, *args, **kwargs):
        loss = super().compute_loss(*args, **kwargs)
        self.loss_is_bad = self.loss_is_bad | ~torch.isfinite(loss.detach())
        # asked before the last backward of a step: with DeepSpeed that one moves the weights
        if self.accelerator.sync_gradients:
            if any_rank(self.loss_is_bad, self.args.device):
                self.stop_at_bad_loss()
            self.loss_is_bad = False
        return loss

    def stop_at_bad_loss(self):
        step, output = self.state.global_step, Path(self.args.output_dir)
        if step and not (output / f"checkpoint-{step}").exists() and not self.weights_are_bad():
            self._save_checkpoint(self.model, None)
        leave(f"error: the loss is not a finite number in step {step + 1}; {ADVICE}. {kept(output)}")

    def weights_are_bad(self) -> bool:
        """Does any rank hold a weight that is no finite number?"""
        held = (getattr(p, "ds_tensor", p) for p in self.model.parameters())  # ZeRO-3: this rank's piece
        bad = any(not torch.isfinite(p.detach()).all() for p in held if p is not None)
        return any_rank(bad, self.args.device)

    def _save_checkpoint(self, model, trial):
        """Trainer's; it counts as whole, and the one before it goes, only when every rank has written its part."""
        output, limit = Path(self.args.output_dir), self.args.save_total_limit
        if self.weights_are_bad():
            step = self.state.global_step
            leave(f"error: a weight is not a finite number after step {step}; {ADVICE}. {kept(output)}")
        self.args.save_total_limit = None
        super()._save_checkpoint(model, trial)
        self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            note = {"step": self.state.global_step, "world_size": self.args.world_size}
            checkpoint.write_json(output / f"checkpoint-{self.state.global_step}" / WHOLE, note)
            rotate_checkpoints(str(output), limit)

    def save_model(self, output_dir=None, _internal_call=False):
        """Every checkpoint is a model for use: it says how many tokens it has seen and decodes with a cache."""
        config = self.accelerator.unwrap_model(self.model).config  # of the base under LoRA, too
        config.context_extension["trained_tokens"] = int(self.state.num_input_tokens_seen)
        config.use_cache = True
        super().save_model(output_dir, _internal_call)
        config.use_cache = False

    def log(self, logs, start_time=None):
        if "loss" in logs:
            logs.update(self.metrics.speed(self.state.num_input_tokens_seen))
        super().log(logs)  # without start_time: Trainer's own tokens/s would be a second, slower-moving one


def kept(output: Path) -> str:
    """What there is to go on from, as a sentence."""
    last = last_whole_checkpoint(output)
    return f"{last} is whole" if last else "There is no checkpoint yet"


@contextlib.contextmanager
def full_disk(output: Path):
    """A full disk, in whatever library it shows, ends this rank with one line."""
    try:
        yield
    except Exception as reason:
        full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        words = "No space left|Disk quota|File too large|os error 2[78]|PytorchStreamWriter failed|unexpected pos"
        cause = reason
        while cause and not (getattr(cause, "errno", None) in full or re.search(words, str(cause))):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        free = shutil.disk_usage(output).free
        print(
            f"error: cannot write to {output} ({str(cause).splitlines()[0]}; {free / 2**30:.1f} GiB free). "
            f"{kept(output)}; make room and run the same command again",
            file=sys.stderr,
            flush=True,
        )
        if int(os.environ.get("RANK", 0)) == 0:
            clear_unfinished(output)
        os._exit(1)  # the other ranks wait for this one: nothing to be tidied up with them


def whole(parameters: list):
    """A context in which every rank holds all of these weights, which ZeRO-3 otherwise leaves in pieces."""
    if not (parameters and is_deepspeed_zero3_enabled()):
        return contextlib.nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(parameters)


def resume_from(output: Path, args: TrainingArguments) -> Path | None:
    """The checkpoint to go on from. Exits with one line where DeepSpeed's, cut in pieces, fits other ranks."""
    last = last_whole_checkpoint(output)
    if last and args.deepspeed:
        ranks = json.loads((last / WHOLE).read_text())["world_size"]
        if ranks != args.world_size:
            raise SystemExit(
                f"error: {last} was written by {ranks} ranks and DeepSpeed can only go on with as many, not "
                f"{args.world_size}; run with {ranks}, or give another --output_dir"
            )
    return last


def train(model, tokenizer, data, args: TrainingArguments, model_args, method) -> None:
    """Trains `model` on `data` ({"input_ids": row}) and leaves the finished checkpoint in args.output_dir.

    Goes on from the last whole checkpoint there. The finished files are checked, then moved in one by one, config.json
    last. Exits with status 1 and one line after SIGTERM or Ctrl-C, on a loss or weight that is no finite number, and on
    a full disk.
    """
    output = Path(args.output_dir)
    resume = resume_from(output, args)
    with args.main_process_first():
        if args.should_save:
            clear_unfinished(output)
    stop = StopOnSignal()
    adapters = sum(getattr(p, "ds_numel", p.numel()) for name, p in model.named_parameters() if "lora_" in name)
    flops_per_token = estimate.training_flops_per_token(model.config, method, adapters)
    metrics = tracking.Metrics(output / tracking.METRICS, flops_per_token)
    if args.parallelism_config:  # now that the method has chosen: Ulysses wraps just this attention
        args.parallelism_config.sp_handler.sp_attn_implementation = model.config._attn_implementation
    trainer = ExtensionTrainer(
        model_args.sequence_parallel_size,
        metrics,
        model=model,
        args=args,
        train_dataset=data,
        data_collator=collate,
        processing_class=tokenizer,
        callbacks=[metrics, stop],
    )
    trainer.remove_callback(PrinterCallback)  # Metrics prints
    logging.getLogger("transformers.trainer_utils").setLevel(logging.ERROR)  # it warns of mtimes at every save
    if resume and args.should_save:
        print(f"going on from {resume}", flush=True)
    with full_disk(output):
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        if stop.stopped:
            name = stop.received or "a signal"  # of another rank
            leave(f"stopped by {name} after step {trainer.state.global_step}. {kept(output)}: run the command again")
        _finish(trainer, model, tokenizer, output, method)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def _finish(trainer, model, tokenizer, output: Path, method) -> None:
    args = trainer.args
    if trainer.weights_are_bad():
        leave(f"error: a weight is not a finite number after the last step; {ADVICE}. {kept(output)}")
    partial = output / "final.partial"
    partial.mkdir(exist_ok=True)
    checkpoint.copy_modeling(method, partial)
    with whole(method.finish_reads(model)):
        final = method.finish(model, partial)
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
        checkpoint.verify_weights(partial, type(final), final.config)
        checkpoint.move_in(partial, output)
