"""The training loop: Transformers' Trainer, with a checkpoint on SIGTERM and a resume that gives the same weights."""

import contextlib
import json
import shutil
import signal
import sys
from functools import partial
from pathlib import Path
from zipfile import ZipFile

from run import errors_of, print_rank0, write_json

import torch
from safetensors import safe_open
from torch.distributed.device_mesh import init_device_mesh
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.trainer_utils import rotate_checkpoints

import checkpoint_writer
import tracking
import training_rows

COMPLETE_MARKER = "complete.json"  # written into a checkpoint-N after every rank has written its part
ADVICE = "try a lower --learning_rate in another --output_dir"
RECORDED = """num_train_epochs max_steps learning_rate lr_scheduler_type warmup_steps weight_decay max_grad_norm optim
    seed""".split()  # fields of TrainingArguments
RECORDED_IF_CHANGED = """adam_beta1 adam_beta2 adam_epsilon data_seed dataloader_drop_last label_smoothing_factor
    lr_scheduler_kwargs neftune_noise_alpha optim_args train_sampling_strategy""".split()


def recipe(args: TrainingArguments, flags, data) -> dict:
    """The settings that determine the weights, recorded in the checkpoint and compared on a rerun."""
    data_ranks = args.world_size // flags.sequence_parallel_size
    precision = "bfloat16" if args.bf16 else "float32"
    if args.fp16:
        precision = "float16"
    settings = {
        "dataset": flags.dataset_dir,
        "rows": len(data),
        "rows_sha256": training_rows.rows_sha256(data),
        "global_batch": args.per_device_train_batch_size * args.gradient_accumulation_steps * data_ranks,
        "precision": precision,
        "attention": flags.attention,
        "sdpa_kernels": flags.sdpa_kernels,
        "liger_kernel": args.use_liger_kernel,
        "torch_compile": args.torch_compile,
    }
    arguments = args.to_dict()
    for name in RECORDED:
        settings[name] = arguments[name]
    for name in RECORDED_IF_CHANGED:
        if arguments[name] != getattr(TrainingArguments, name):
            settings[name] = arguments[name]
    for name in ("document_mask", "pose"):
        if getattr(flags, name):
            settings[name] = True
    return settings


def collate(examples: list[dict], part: int = 0, parts: int = 1) -> dict:
    """A batch of int64 tensors [B, L]: ids and labels, which the model shifts. Rows without `labels` learn all ids.

    Ranks that share a row get `part` of `parts` of it, [B, L / parts], with labels that are already shifted.
    """
    columns = examples[0].keys()
    ids_BL = torch.tensor([example["input_ids"] for example in examples])
    labels_BL = ids_BL
    if "labels" in columns:
        labels_BL = torch.tensor([example["labels"] for example in examples])
    batch = {"input_ids": ids_BL, "labels": labels_BL}
    if parts > 1 or "document_starts" in columns or "skip" in columns:
        batch["position_ids"] = torch.stack([positions(example) for example in examples])
    if "skip" in columns:  # without a mask, Transformers would take it for the beginning of another document
        batch["attention_mask"] = torch.ones_like(ids_BL)
    if parts == 1:
        return batch
    del batch["labels"]
    batch["shift_labels"] = torch.nn.functional.pad(labels_BL[:, 1:], (0, 1), value=-100)
    for name, x_BL in batch.items():
        batch[name] = x_BL.chunk(parts, dim=1)[part].contiguous()
    return batch


def positions(example: dict) -> torch.Tensor:
    """The positions of a row, int64 [L].

    With `document_starts`, they start from 0 in each document: Transformers' attention then stays inside it. With
    `chunk` and `skip`, they skip some between two chunks of the row (see training_rows.draw_skips).
    """
    position_L = torch.arange(len(example["input_ids"]))
    for start in sorted(example.get("document_starts", [])):
        position_L[start:] = torch.arange(len(position_L) - start)
    if "skip" in example:
        position_L[example["chunk"] :] += example["skip"]
    return position_L


def last_checkpoint(output: Path) -> Path | None:
    """The newest checkpoint-N in `output` that every rank wrote completely, or None."""
    complete = [marker.parent for marker in output.glob(f"checkpoint-*/{COMPLETE_MARKER}")]
    return max(complete, key=lambda folder: int(folder.name.split("-")[1]), default=None)


def check_files(folder: Path) -> None:
    """Raises ValueError if a file of a checkpoint is cut off or empty, as after a power cut."""
    for path in folder.rglob("*"):
        with errors_of(f"{path} is damaged; delete {folder} to resume from the checkpoint before it"):
            if path.suffix == ".json":
                json.loads(path.read_bytes())
            elif path.suffix == ".safetensors":
                safe_open(path, framework="pt")
            elif path.suffix in (".pt", ".pth"):
                ZipFile(path)


class StopOnSignal(TrainerCallback):
    """After SIGTERM, SIGHUP or Ctrl-C, writes a checkpoint at the end of the step and stops."""

    def __init__(self):
        self.received, self.stopped = None, False

    def on_train_begin(self, args, state, control, **kwargs):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP
                signal.signal(number, self.receive)

    def receive(self, number, _):
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second Ctrl-C ends the run at once
        self.received = signal.Signals(number).name

    def on_step_end(self, args, state, control, **kwargs):
        stop = torch.tensor(self.received is not None, dtype=torch.int32, device=args.device)
        if torch.distributed.is_initialized():  # all ranks stop after the same step
            torch.distributed.all_reduce(stop, op=torch.distributed.ReduceOp.MAX)
        if stop and state.global_step < state.max_steps:
            self.stopped = control.should_save = control.should_training_stop = True


class ExtensionTrainer(Trainer):
    """parts: ranks that share each row.  metrics: adds the speed to every log."""

    def __init__(self, parts: int, metrics: tracking.Metrics, args: TrainingArguments, **kwargs):
        collator = partial(collate, part=args.process_index % parts, parts=parts)
        super().__init__(args=args, data_collator=collator, **kwargs)
        self.metrics = metrics
        # Trainer would remove the previous checkpoint before all ranks have written the new one
        self.save_total_limit = args.save_total_limit
        args.save_total_limit = None
        if parts > 1:  # the libraries would give each rank rows of its own and then split them: that cannot be resumed
            groups = (args.world_size // parts, parts)
            mesh = init_device_mesh(args.device.type, groups, mesh_dim_names=("dp", "tp"))
            self.accelerator.state.ds_device_mesh = mesh  # the ranks of a "tp" group read the same rows
            self.accelerator.deepspeed_ulysses_dl_adapter = lambda loader, model: loader
            self.get_sp_size = lambda: 1  # the loader has as many batches as its length says

    def compute_loss(self, *args, **kwargs):
        loss = super().compute_loss(*args, **kwargs)
        if not torch.isfinite(loss):
            raise ValueError(f"the loss is {loss.item()} in step {self.state.global_step + 1}; {ADVICE}")
        return loss

    def _run_epoch(self, **kwargs):
        if self.state.global_step < self.state.max_steps:  # else the run was killed after its last step
            super()._run_epoch(**kwargs)

    def prepare_to_save(self) -> None:
        """Records the tokens seen so far. Raises ValueError if a weight is NaN or infinite."""
        self.model.config.context_extension["trained_tokens"] = self.state.num_input_tokens_seen
        for p in self.model.parameters():
            weight = getattr(p, "ds_tensor", p)  # under ZeRO-3: this rank's part
            if not torch.isfinite(weight.detach()).all():
                raise ValueError(f"a weight is NaN or infinite after step {self.state.global_step}; {ADVICE}")

    def _save_checkpoint(self, model, trial):
        """Trainer's; then marks the new checkpoint as complete, and removes old ones, after every rank has written."""
        self.prepare_to_save()
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            checkpoint_writer.apply_umask(folder)
            write_json(folder / COMPLETE_MARKER, {"world_size": self.args.world_size})
            rotate_checkpoints(self.args.output_dir, self.save_total_limit)

    def log(self, logs, start_time=None):
        if "loss" in logs:
            logs.update(self.metrics.speed(self.state.num_input_tokens_seen))
        super().log(logs)  # without start_time: Trainer would add its own tokens/s


def train(model, tokenizer, data, args: TrainingArguments, flags, method) -> None:
    """Trains `model` on `data` ({"input_ids": row}), from the last complete checkpoint, to the finished one.

    Exits with status 143 after SIGTERM, SIGHUP or Ctrl-C. Raises ValueError if a loss or weight is NaN or infinite.
    """
    output = Path(args.output_dir)
    last = last_checkpoint(output)
    if last:
        check_files(last)
        print_rank0(f"resuming from {last}")
    with args.main_process_first():
        for folder in output.glob("checkpoint-*"):
            if args.should_save and not (folder / COMPLETE_MARKER).exists():  # the run was killed while writing it
                print(f"removing the incomplete {folder}", flush=True)
                shutil.rmtree(folder)
    stop = StopOnSignal()
    metrics = tracking.Metrics(output, tracking.training_flops_per_token(model, method))
    parts = flags.sequence_parallel_size
    trainer = ExtensionTrainer(
        parts, metrics, args, model=model, train_dataset=data, processing_class=tokenizer, callbacks=[metrics, stop]
    )
    trainer.remove_callback(PrinterCallback)  # Metrics prints
    trainer.train(resume_from_checkpoint=last)
    if stop.stopped:
        reason = stop.received or "a signal to another rank"
        print_rank0(f"stopped by {reason}: {last_checkpoint(output)} is complete; rerun the same command to resume")
        sys.exit(143)
    state = trainer.state
    if state.global_step < state.max_steps:
        raise ValueError(f"the data ended after step {state.global_step} of {state.max_steps}; give more rows")
    save_finished(trainer, model, tokenizer, method)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def save_finished(trainer: ExtensionTrainer, model, tokenizer, method) -> None:
    """Writes the model that the method finishes to a folder of its own and moves it into the output folder."""
    args, output = trainer.args, Path(trainer.args.output_dir)
    trainer.prepare_to_save()
    folder = output / "final.partial"
    folder.mkdir(exist_ok=True)
    whole_values = contextlib.nullcontext()
    if is_deepspeed_zero3_enabled():  # a rank has its part of them only
        import deepspeed

        whole_values = deepspeed.zero.GatheredParameters(method.finish_reads(model))
    with whole_values:
        final = method.finish(model, folder)
        if args.bf16 and not args.deepspeed:
            final.to(torch.bfloat16)
        if final is not model and args.should_save:
            final.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    if final is model:
        trainer.save_model(str(folder))
    trainer.accelerator.wait_for_everyone()
    if args.should_save:
        (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle; run.json has the settings
        checkpoint_writer.complete_files(method, folder)
        checkpoint_writer.move_in(folder, output)
