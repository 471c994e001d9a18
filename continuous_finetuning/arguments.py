"""The flags of fine-tune.py: read, checked against each other, and fitted to the machine, before anything is loaded."""

import os
import sys
import warnings
from argparse import SUPPRESS
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import accelerate.utils.other
import torch
from transformers import HfArgumentParser, TrainingArguments
from transformers.utils import is_flash_attn_2_available

import ds_config
import memory
import methods

TRACKERS = ("wandb", "trackio", "tensorboard", "none")


@dataclass
class ModelArguments:
    model_name_or_path: str = field(metadata={"help": "base model: a folder or a hub id"})
    method_name: str = field(metadata={"help": f"one of: {', '.join(methods.available())}"})
    dataset_dir: str = field(metadata={"help": "hub dataset id, `datasets` folder, or JSON-lines / Parquet files"})
    model_max_length: int = field(default=32768, metadata={"help": "context window to train, tokens; the rows' length"})
    document_mask: bool = field(default=False, metadata={"help": "attention does not cross the documents of a row"})
    use_flash_attn: bool = field(default=True, metadata={"help": "flash attention 2 where it is installed, else SDPA"})
    low_rank_training: bool = field(default=False, metadata={"help": "LoRA instead of all weights"})
    cache_dir: str | None = field(default=None, metadata={"help": "where hub downloads are kept"})
    use_wandb: bool = field(default=False, metadata={"help": "report to Weights & Biases, as --report_to wandb"})
    wandb_name: str | None = field(default=None, metadata={"help": "name of the wandb run [the output folder's name]"})
    sequence_parallel_size: int = field(default=1, metadata={"help": "ranks that share each row (needs --deepspeed)"})
    offload_activations: bool = field(default=False, metadata={"help": "keep checkpointed tensors in host memory"})
    tiled_mlp: bool = field(
        default=False, metadata={"help": "MLPs in tiles: less memory, a third forward pass of them"}
    )
    estimate: str | None = field(
        default=None,
        metadata={"help": "print memory and hours for 8xH100, 16xA100-80, ... [this machine's GPUs] and stop"},
    )


@dataclass
class RecipeArguments(TrainingArguments):
    """Transformers' own, with the study's defaults."""

    gradient_checkpointing: bool = field(default=True, metadata={"help": "recompute activations in the backward pass"})
    logging_steps: float = field(default=1, metadata={"help": "log every so many optimizer steps"})
    disable_tqdm: bool | None = field(default=True, metadata={"help": "one printed line now and then, not a bar"})


def say(line: str) -> None:
    if int(os.environ.get("RANK", 0)) == 0:
        print(line, flush=True)


def _fit_to_machine(args) -> None:
    """Turns off, with one line each, what this machine cannot do; `args` is the parsed namespace, changed in place."""
    cuda = torch.cuda.is_available()
    args.use_cpu = args.use_cpu or not cuda
    if args.tf32 and not (cuda and torch.cuda.get_device_capability() >= (8, 0)):
        args.tf32 = None
        say("--tf32: no GPU with tf32 here, float32 stays float32")
    if args.bf16 and not (cuda and torch.cuda.is_bf16_supported()) and not args.deepspeed:
        args.bf16 = False
        say("--bf16: no GPU with bfloat16 here, training in float32")
    if args.use_flash_attn and not (cuda and is_flash_attn_2_available()):
        args.use_flash_attn = False
        missing = "no GPU here" if not cuda else "flash-attn is not installed (pip install -r requirements-gpu.txt)"
        say(f"--use_flash_attn: {missing}, attention by PyTorch's SDPA")
    if args.document_mask and args.use_flash_attn and args.per_device_train_batch_size > 1:
        raise SystemExit("error: --document_mask with flash attention needs --per_device_train_batch_size 1")
    if args.use_liger_kernel:  # its norms and activations; the loss is memory.py's, with liger's kernel inside
        args.liger_kernel_config = {"fused_linear_cross_entropy": False, **(args.liger_kernel_config or {})}


def _start_deepspeed(args) -> None:
    import deepspeed

    # torch tells the libraries, at every step, of new names for its collectives
    warnings.filterwarnings("ignore", message=r"`?torch\.distributed\.", category=FutureWarning)
    one_rank = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 29500}
    for name, value in one_rank.items():  # what torchrun sets, for a plain `python fine-tune.py`
        os.environ.setdefault(name, str(value))
    if not torch.cuda.is_available():
        deepspeed.init_distributed(dist_backend="gloo")  # before TrainingArguments, or the world size is read as 1


def _check(args) -> None:
    """Exits with one line on flags that cannot go together."""
    cls = methods.get(args.method_name)
    if not args.output_dir:
        raise SystemExit("error: give --output_dir")
    if not cls.trained:
        raise SystemExit(f"error: {args.method_name} is not trained; apply it with extend.py")
    if args.low_rank_training and not cls.low_rank:
        raise SystemExit(f"error: --low_rank_training: {args.method_name} trains all weights; set it to False")
    if args.eval_strategy not in ("no", None):
        raise SystemExit("error: --evaluation_strategy: there is no evaluation set here; set it to no")
    if args.offload_activations and not args.gradient_checkpointing:
        raise SystemExit("error: --offload_activations moves checkpointed tensors; leave --gradient_checkpointing on")
    ranks = args.sequence_parallel_size
    if ranks < 1:
        raise SystemExit(f"error: --sequence_parallel_size must be at least 1, not {ranks}")
    if ranks > 1:
        world = int(os.environ.get("WORLD_SIZE", 1))
        if not cls.sequence_parallel:
            raise SystemExit(
                f"error: {args.method_name}'s attention cannot be cut across ranks; leave --sequence_parallel_size out"
            )
        if not args.deepspeed:
            raise SystemExit("error: --sequence_parallel_size needs DeepSpeed: give --deepspeed ds_configs/stage3.json")
        if args.document_mask:
            raise SystemExit("error: --document_mask and --sequence_parallel_size do not go together; leave one out")
        if not args.estimate and world % ranks:
            raise SystemExit(f"error: --sequence_parallel_size {ranks} does not divide the {world} ranks of this run")
        if args.model_max_length % ranks:
            raise SystemExit(
                f"error: --sequence_parallel_size {ranks} does not divide --model_max_length {args.model_max_length}"
            )


def _trackers(args) -> None:
    wanted = [args.report_to] if isinstance(args.report_to, str) else list(args.report_to or ["none"])
    if args.use_wandb:
        wanted.append("wandb")
    args.report_to = list(dict.fromkeys(name for name in wanted if name != "none")) or ["none"]
    for name in args.report_to:
        if name not in TRACKERS:
            raise SystemExit(f"error: --report_to {name}: give one of {', '.join(TRACKERS)}")
        if name != "none" and find_spec(name) is None:
            raise SystemExit(f"error: --report_to {name} needs the package: pip install {name}")
    if "wandb" in args.report_to:
        import wandb

        os.environ.setdefault("WANDB_PROJECT", "long_extension")
        if "WANDB_MODE" not in os.environ and not wandb.api.api_key:  # or it would stop at a prompt
            os.environ["WANDB_MODE"] = "offline"
            say("wandb: not logged in to Weights & Biases, recording offline (log in with: wandb login)")
    args.project = "long_extension" if args.project == "huggingface" else args.project  # trackio's
    args.run_name = args.wandb_name or args.run_name or Path(args.output_dir).name


def parse(argv: list[str], description: str):
    """(ModelArguments, RecipeArguments or None with --estimate, the namespace). Exits with one line on what cannot
    work."""
    parser = HfArgumentParser((ModelArguments, RecipeArguments), description=description, allow_abbrev=False)
    parser.error = lambda message: sys.exit(f"error: {message} (--help lists the flags)")  # not 100 lines of usage
    parser.add_argument("--evaluation_strategy", dest="eval_strategy", default=SUPPRESS, help="or --eval_strategy")
    methods.add_flags(parser)
    bare = [i for i, word in enumerate(argv) if word == "--estimate" and (argv[i + 1 : i + 2] or ["--"])[0][:2] == "--"]
    for i in reversed(bare):
        argv = [*argv[: i + 1], "here", *argv[i + 1 :]]
    args = parser.parse_args(argv)

    _check(args)
    args.zero = ds_config.read(args.deepspeed) if args.deepspeed else ds_config.Settings(0, False, False)
    if args.estimate:
        return ModelArguments(**{name: getattr(args, name) for name in ModelArguments.__dataclass_fields__}), None, args
    _fit_to_machine(args)
    _trackers(args)
    if args.deepspeed:
        _start_deepspeed(args)
    else:  # accelerate would import it all the same, to see that a model is no engine of it: two seconds
        accelerate.utils.other.is_deepspeed_available = lambda: False
    if args.sequence_parallel_size > 1:
        args.parallelism_config = memory.sequence_parallel(args.sequence_parallel_size)
    args.include_num_input_tokens_seen = "all"
    args.remove_unused_columns = False  # collate knows which it needs
    model_args, recipe = parser.parse_dict(vars(args), allow_extra_keys=True)
    return model_args, recipe, args
