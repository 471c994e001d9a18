"""The training loop: Transformers' Trainer with resume, a checkpoint on SIGTERM, and checkpoints that are complete."""

import contextlib
import json
import logging
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

import checkpoint_writer
import tracking
from run import print_rank0, write_json

COMPLETE_MARKER = "complete.json"  # written into a checkpoint-N after every rank has written its part


def recipe(args: TrainingArguments, flags, n_rows: int) -> dict:
    """The settings that decide the trained weights, recorded in the checkpoint and compared on a rerun."""
    data_ranks = args.world_size // flags.sequence_parallel_size
    masked = {"document_mask": True} if flags.document_mask else {}
    return masked | {
        "dataset": flags.dataset_dir,
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
        "attention": flags.attention,
        "sdpa_kernels": flags.sdpa_kernels,
        "liger_kernel": bool(args.use_liger_kernel),
        "torch_compile": bool(args.torch_compile),
        "seed": args.seed,
    }


def collate(examples: list[dict], part: int = 0, parts: int = 1) -> dict:
    """Rows of token ids to a batch, all int64 [B, L]: ids and labels, which the model shifts itself.

    If rows have `document_starts`, positions start again with each document: Transformers' masks and flash attention
    tell documents apart by that. Relative distances, all that rope sees, are the same. If ranks share a row, this one
    gets part `part` of `parts`, [B, L / parts], of ids, labels that are already shifted, and positions.
    """
    ids_BL = torch.tensor([example["input_ids"] for example in examples])
    position_BL = torch.arange(ids_BL.shape[1]).repeat(len(examples), 1)
    if parts > 1:
        shifted_BL = torch.nn.functional.pad(ids_BL[:, 1:], (0, 1), value=-100)
        batch = {"input_ids": ids_BL, "shift_labels": shifted_BL, "position_ids": position_BL}
        return {name: x_BL.chunk(parts, dim=1)[part].contiguous() for name, x_BL in batch.items()}
    if "document_starts" not in examples[0]:
        return {"input_ids": ids_BL, "labels": ids_BL}
    for position_L, example in zip(position_BL, examples, strict=True):
        for start in example["document_starts"]:
            position_L[start:] = torch.arange(len(position_L) - start)
    return {"input_ids": ids_BL, "labels": ids_BL, "position_ids": position_BL}


# --- checkpoints during training
def last_checkpoint(output: Path) -> Path | None:
    """The newest checkpoint-N in `output` that every rank wrote completely, or None."""
    complete = {}
    for folder in output.glob("checkpoint-*"):
        if re.fullmatch(r"checkpoint-\d+", folder.name) and (folder / COMPLETE_MARKER).exists():
            complete[int(folder.name.split("-")[1])] = folder
    return complete[max(complete)] if complete else None


def remove_incomplete(output: Path) -> None:
    """Removes the checkpoints that were being written when the run stopped."""
    for folder in output.glob("checkpoint-*"):
        if not (folder / COMPLETE_MARKER).exists():
            print(f"removing the incomplete {folder}", flush=True)
            shutil.rmtree(folder)


def resume_from(output: Path, args: TrainingArguments) -> Path | None:
    """The checkpoint to resume from. Raises ValueError if DeepSpeed wrote it with another number of ranks."""
    last = last_checkpoint(output)
    if last and args.deepspeed:
        ranks = json.loads((last / COMPLETE_MARKER).read_text())["world_size"]
        if ranks != args.world_size:
            raise ValueError(
                f"{last} was written by {ranks} ranks and DeepSpeed can resume it with as many only, not "
                f"{args.world_size}; run with {ranks}, or give another --output_dir"
            )
    return last


class StopOnSignal(TrainerCallback):
    """Writes a checkpoint at the end of the step and stops after SIGTERM, which a cluster sends before it takes a job's
    machines, after SIGHUP, and after a first Ctrl-C."""

    def __init__(self):
        self.received, self.stopped = None, False

    def on_train_begin(self, args, state, control, **kwargs):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # as nohup sets it
                signal.signal(number, self.receive)

    def receive(self, number, _):
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second Ctrl-C ends the run at once
        self.received = signal.Signals(number).name

    def on_step_end(self, args, state, control, **kwargs):
        stop = torch.tensor([self.received is not None], dtype=torch.int32, device=args.device)
        if torch.distributed.is_initialized():  # all ranks stop after the same step
            torch.distributed.all_reduce(stop, op=torch.distributed.ReduceOp.MAX)
        if stop.item() and state.global_step < state.max_steps:
            self.stopped = control.should_save = control.should_training_stop = True


class ExtensionTrainer(Trainer):
    """parts: ranks that share each row. metrics: adds the speed to every log."""

    def __init__(self, parts: int, metrics: tracking.Metrics, **kwargs):
        self.metrics = metrics
        super().__init__(**kwargs)
        if parts > 1:
            # The libraries give each rank a row and then cut it, which cannot be resumed. Here ranks that share rows
            # read the same ones and `collate` takes this rank's part.
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
        if not torch.isfinite(loss):
            raise ValueError(f"the loss is {loss.item()} in step {self.state.global_step + 1}; {self.advice()}")
        return loss

    def advice(self) -> str:
        last = last_checkpoint(Path(self.args.output_dir))
        kept = f"the last checkpoint is {last}" if last else "there is no checkpoint yet"
        return f"try a lower --learning_rate or more --warmup_steps in another --output_dir ({kept})"

    def check_weights(self) -> None:
        """Raises ValueError if a weight that this rank holds is NaN or infinite."""
        for p in self.model.parameters():
            weight = getattr(p, "ds_tensor", p)  # under ZeRO-3: this rank's piece
            if not torch.isfinite(weight.detach()).all():
                raise ValueError(f"a weight is NaN or infinite after step {self.state.global_step}; {self.advice()}")

    def _save_checkpoint(self, model, trial):
        """Trainer's. The new checkpoint counts, and the one before it is removed, after every rank has written."""
        output, limit = Path(self.args.output_dir), self.args.save_total_limit
        self.check_weights()
        self.args.save_total_limit = None
        super()._save_checkpoint(model, trial)
        self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            marker = {"step": self.state.global_step, "world_size": self.args.world_size}
            write_json(output / f"checkpoint-{self.state.global_step}" / COMPLETE_MARKER, marker)
            rotate_checkpoints(str(output), limit)

    def save_model(self, output_dir=None, _internal_call=False):
        """Every checkpoint is a model for use: it records the tokens it has seen and decodes with a cache."""
        config = self.accelerator.unwrap_model(self.model).config  # under LoRA, the base's
        config.context_extension["trained_tokens"] = int(self.state.num_input_tokens_seen)
        config.use_cache = True
        super().save_model(output_dir, _internal_call)
        config.use_cache = False

    def log(self, logs, start_time=None):
        if "loss" in logs:
            logs.update(self.metrics.speed(self.state.num_input_tokens_seen))
        super().log(logs)  # without start_time: Trainer would add its own tokens/s


def train(model, tokenizer, data, args: TrainingArguments, flags, method) -> None:
    """Trains `model` on `data` ({"input_ids": row}) and leaves the finished checkpoint in args.output_dir.

    Resumes from the last complete checkpoint there. The finished files are checked, then moved in one by one,
    config.json last. Exits with status 143 after SIGTERM, SIGHUP or Ctrl-C; raises ValueError if a loss or weight
    becomes NaN or infinite.
    """
    output = Path(args.output_dir)
    last = resume_from(output, args)
    with args.main_process_first():
        if args.should_save:
            remove_incomplete(output)
    stop = StopOnSignal()
    adapters = sum(getattr(p, "ds_numel", p.numel()) for name, p in model.named_parameters() if "lora_" in name)
    flops_per_token = tracking.training_flops_per_token(model.config, method, adapters)
    metrics = tracking.Metrics(output / tracking.METRICS, flops_per_token)
    if args.parallelism_config:  # now that the method has chosen: Ulysses wraps just this attention
        args.parallelism_config.sp_handler.sp_attn_implementation = model.config._attn_implementation
    trainer = ExtensionTrainer(
        flags.sequence_parallel_size,
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
    if last:
        print_rank0(f"resuming from {last}")
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    if stop.stopped:
        reason = stop.received or "a signal to another rank"
        print_rank0(f"stopped by {reason}: {last_checkpoint(output)} is complete; rerun the same command to resume")
        sys.exit(143)
    save_finished(trainer, model, tokenizer, output, method)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def gathered(parameters: list):
    """A context in which every rank holds all of these weights, which ZeRO-3 otherwise leaves in pieces."""
    if not (parameters and is_deepspeed_zero3_enabled()):
        return contextlib.nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(parameters)


def save_finished(trainer: ExtensionTrainer, model, tokenizer, output: Path, method) -> None:
    """Writes the trained model, made whole by the method, into a folder of its own and moves it into `output`."""
    args = trainer.args
    trainer.check_weights()
    partial = output / "final.partial"
    partial.mkdir(exist_ok=True)
    checkpoint_writer.copy_modeling(method, partial)
    with gathered(method.finish_reads(model)):
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
        checkpoint_writer.verify_weights(partial, type(final), final.config)
        checkpoint_writer.move_in(partial, output)
