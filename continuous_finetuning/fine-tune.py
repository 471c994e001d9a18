r"""Continues the training of a base model at a longer context, with one extension method.

One CPU:    python fine-tune.py --model_name_or_path BASE --method_name yarn --model_max_length 512 \
                --dataset_dir rows.parquet --output_dir OUT
One GPU:    the same, with --bf16 True
Eight GPUs: torchrun --nproc_per_node=8 fine-tune.py ... --bf16 True --deepspeed ds_configs/stage3_offload.json
Estimate:   python fine-tune.py ... --estimate 8xH100       prints the memory and the hours that a run will need

Rerun the same command to resume after a kill: it continues from the last complete checkpoint in OUT (--save_steps) and
ends with the same weights. OUT then contains the extended model, run.json (the settings) and metrics.jsonl (a line per
logged step). All flags of Transformers' TrainingArguments work; `finetune.sh` runs the study's recipe.
"""

import gpu_memory  # noqa: F401, before torch, which reads what it sets

# isort: split
import atexit
import math
import os
import shutil
import sys
import warnings
from argparse import SUPPRESS, ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from run import WORLD_SIZE, default_device, print_rank0, run_script

import accelerate.utils.other
import torch
from accelerate.parallelism_config import ParallelismConfig
from requests.utils import get_netrc_auth
from transformers import HfArgumentParser, TrainingArguments, set_seed
from transformers.hf_argparser import HfArg
from transformers.utils import is_torch_tf32_available

import checkpoint_writer
import ds_config
import estimate
import memory
import methods
import training
import training_rows
from attention import CHOICES, choose_attention, is_full_attention, sdpa_kernels
from checkpoint import transform_logits
from tokenizer import open_tokenizer

COUNTS = ("_steps", "_epochs", "_size", "_length", "learning_rate")  # ends of the names of flags that must not be 0
# flags with which a rerun would not end with the weights, or the recipe, of an uninterrupted run
NOT_RESUMABLE = ("resume_from_checkpoint", "save_only_model", "ignore_data_skip", "auto_find_batch_size")
OPTIONAL = ("low_rank_training", "document_mask", "pose", "sequence_parallel_size")  # flags for some methods only


class HelpFormatter(RawDescriptionHelpFormatter, ArgumentDefaultsHelpFormatter):
    """Keeps the lines of the docstring, and adds the default to each flag."""


@dataclass
class ModelArguments:
    model_name_or_path: str = HfArg(help="base model: a folder or a hub id")
    method_name: str = HfArg(help=f"one of: {', '.join(methods.available())}")
    dataset_dir: str = HfArg(help="hub dataset id, `datasets` folder, or JSON-lines / Parquet files")
    model_max_length: int = HfArg(default=32768, help="context window to reach, tokens; the rows' length")
    pose: bool = HfArg(default=False, help="PoSE: rows of the base's own window, with positions up to the new one")
    document_mask: bool = HfArg(default=False, help="attention does not cross the documents of a row")
    attention: str = HfArg(default="auto", metadata={"choices": CHOICES}, help="auto: newest FlashAttention, else sdpa")
    use_flash_attn: bool = HfArg(default=True, help="True: --attention auto; False: --attention sdpa")
    low_rank_training: bool = HfArg(default=False, help="LoRA instead of all weights")
    use_wandb: bool = HfArg(default=False, help="the same as --report_to wandb")
    sequence_parallel_size: int = HfArg(default=1, help="ranks that share each row (needs --deepspeed)")
    offload_activations: bool = HfArg(default=False, help="keep checkpointed activations in host memory")
    keep_attention: bool = HfArg(default=False, help="do not recompute SDPA in the backward pass")
    tiled_mlp: bool = HfArg(default=False, help="MLPs in tiles: less memory, a third forward pass")


@dataclass
class RecipeArguments(TrainingArguments):
    output_dir: str = HfArg(help="folder for the trained model; the same command resumes from there")
    gradient_checkpointing: bool = HfArg(default=True, help="recompute activations in the backward pass")
    logging_steps: float = HfArg(default=1, help="log every so many optimizer steps")
    disable_tqdm: bool | None = HfArg(default=True, help="print a line every few seconds, no bar")


def parse_flags():
    """All flags, and `zero`, a ds_config.Settings."""
    parser = HfArgumentParser(
        (ModelArguments, RecipeArguments),
        usage="fine-tune.py --model_name_or_path BASE --method_name METHOD --dataset_dir ROWS --output_dir OUT [flags]",
        description=__doc__,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.error = lambda message: sys.exit(f"error: {message} (--help lists the flags)")  # not 100 lines of usage
    parser.add_argument("--evaluation_strategy", dest="eval_strategy", default=SUPPRESS, help="or --eval_strategy")
    parser.add_argument("--wandb_name", dest="run_name", default=SUPPRESS, help="or --run_name [that of --output_dir]")
    parser.add_argument("--estimate", nargs="?", const="8xH100", help="print memory and hours on 8xH100, ... and stop")
    methods.add_flags(parser)
    flags = parser.parse_args()
    for name in ("output_dir", "model_name_or_path", "dataset_dir"):
        if not getattr(flags, name):
            raise ValueError(f"--{name} is empty; give a folder")
    check_numbers(flags, parser)
    for name in NOT_RESUMABLE:
        if getattr(flags, name):
            raise ValueError(f"--{name}: leave it out; the same command resumes from --output_dir")
    flags.zero = ds_config.read(flags.deepspeed) if flags.deepspeed else ds_config.Settings()
    return flags


def check_numbers(flags, parser: HfArgumentParser) -> None:
    """Raises ValueError on numbers that are negative, NaN or infinite, and on 0 where it would train nothing."""
    for name, value in vars(flags).items():
        if type(value) not in (int, float) or value == parser.get_default(name):
            continue
        trains_nothing = value == 0 and name.endswith(COUNTS)
        if trains_nothing or not 0 <= value < math.inf:
            raise ValueError(f"--{name} {value}: give a positive number")


def check_method(config, method, flags) -> None:
    """Raises ValueError on flags that the method or the base does not support. config: the base's."""
    name = flags.method_name
    if not method.trained:
        raise ValueError(f"{name} is not trained; apply it with extend.py")
    given = [flag for flag in OPTIONAL if getattr(flags, flag) != getattr(ModelArguments, flag)]
    for flag in given:
        if flag not in method.supports:
            raise ValueError(f"--{flag} is not supported by {name}; leave it out")
    if len(given) > 1:
        raise ValueError("give only one of --document_mask, --pose and --sequence_parallel_size")
    if flags.offload_activations and flags.keep_attention:
        raise ValueError("give --offload_activations or --keep_attention, not both")
    if flags.keep_attention and method.modeling:
        raise ValueError(f"--keep_attention keeps the outputs of SDPA, which {name} does not call; leave it out")
    if flags.use_liger_kernel and transform_logits(config, torch.ones(1)) != 1:
        raise ValueError(f"--use_liger_kernel does not scale logits as '{config.model_type}' does; leave it out")
    if "sequence_parallel_size" not in given:
        return
    if not is_full_attention(config):
        raise ValueError(f"--sequence_parallel_size does not support the attention of '{config.model_type}' models")
    if not flags.deepspeed:
        raise ValueError("--sequence_parallel_size needs --deepspeed ds_configs/stage3.json")
    ranks, length = flags.sequence_parallel_size, method.row_length  # DeepSpeed compares the number of heads
    world_size = ranks if flags.estimate else WORLD_SIZE
    if length % ranks or world_size % ranks:
        raise ValueError(f"--sequence_parallel_size {ranks} must divide {length} tokens and {world_size} ranks")


def fit_to_machine(flags, config) -> None:
    """Turns off what a CPU cannot do, and chooses the attention. Raises ValueError if a flag needs a GPU."""
    has_gpu = torch.cuda.is_available()
    if not has_gpu:
        flags.use_cpu = True
        for name in ("bf16", "fp16"):
            if getattr(flags, name) and not flags.deepspeed:
                setattr(flags, name, False)
                print_rank0(f"--{name}: no GPU here, training in float32")
    if flags.tf32 and not is_torch_tf32_available():
        flags.tf32 = None
        if has_gpu:
            print_rank0("--tf32: this GPU has no TF32, matrix products stay in float32")
    if flags.attention == "auto" and not flags.use_flash_attn:
        flags.attention = "sdpa"
    dtype = "bfloat16" if flags.bf16 else "float32"
    flags.attention = choose_attention(flags.attention, default_device(), dtype, config)
    if flags.document_mask and flags.attention == "sdpa":
        memory.check_document_mask(flags.per_device_train_batch_size, flags.model_max_length)
        torch.backends.cuda.enable_cudnn_sdp(False)  # with a mask and L % 128 == 64 its backward can be NaN
    elif flags.document_mask and flags.per_device_train_batch_size > 1:
        raise ValueError("--document_mask with FlashAttention needs --per_device_train_batch_size 1")
    flags.sdpa_kernels = sdpa_kernels(default_device()) if flags.attention == "sdpa" else None
    if flags.use_liger_kernel:
        if not has_gpu:
            raise ValueError("--use_liger_kernel needs a GPU")
        flags.liger_kernel_config = {"fused_linear_cross_entropy": False}  # memory.py calls its loss
    if flags.offload_activations and has_gpu:
        flags.gradient_checkpointing_kwargs = {"use_reentrant": False, "offload": True}
    if flags.keep_attention:
        if flags.attention != "sdpa":
            raise ValueError(f"--keep_attention keeps the outputs of SDPA, not of {flags.attention}; leave it out")
        flags.gradient_checkpointing_kwargs = {"use_reentrant": False, "context_fn": memory.keep_attention}


def choose_trackers(flags) -> None:
    """Sets `report_to` and the name of the run. wandb records offline if nobody is logged in."""
    if flags.use_wandb:
        flags.report_to = sorted({"wandb", flags.report_to} - {"none"})
    flags.run_name = flags.run_name or Path(flags.output_dir).name
    trackers = [flags.report_to] if isinstance(flags.report_to, str) else flags.report_to
    for tracker in set(trackers) - {"none", "all"}:
        if find_spec(tracker) is None:
            raise ValueError(f"--report_to {tracker} needs the package: pip install {tracker}")
    if {"wandb", "all"} & set(trackers):
        os.environ.setdefault("WANDB_PROJECT", "long_extension")
        server = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
        logged_in = os.environ.get("WANDB_API_KEY") or get_netrc_auth(server)
        if "WANDB_MODE" not in os.environ and not logged_in:  # or it would stop at a prompt
            os.environ["WANDB_MODE"] = "offline"
            print_rank0("wandb: not logged in to Weights & Biases, recording offline (log in with: wandb login)")


def start_deepspeed(zero: ds_config.Settings) -> None:
    """Initialises DeepSpeed's process group. Raises ValueError without a compiler."""
    import deepspeed

    has_gpu = torch.cuda.is_available()
    os.environ["PATH"] += os.pathsep + str(Path(sys.executable).parent)  # pip's ninja is there
    compiles = zero.offload_optimizer or not has_gpu  # Adam for the CPU, or collectives
    is_prebuilt = any(deepspeed.git_version_info.installed_ops.values())
    if compiles and not is_prebuilt:
        for program, remedy in {"ninja": "pip install ninja", "c++": "apt install g++ (Debian)"}.items():
            if shutil.which(program) is None:
                raise ValueError(f"--deepspeed compiles a part of itself and needs {program}: {remedy}")
    # torch warns at every step of new names for its collectives
    warnings.filterwarnings("ignore", message=r"`?torch\.distributed\.", category=FutureWarning)
    # port 0: any that is free
    one_rank = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    for name, value in one_rank.items():  # for a plain `python fine-tune.py`, what torchrun sets
        os.environ.setdefault(name, value)
    if not has_gpu:
        deepspeed.init_distributed(dist_backend="gloo")  # before TrainingArguments, or the world size is read as 1


def training_arguments(flags, config) -> RecipeArguments:
    fit_to_machine(flags, config)
    choose_trackers(flags)
    if flags.deepspeed:
        start_deepspeed(flags.zero)
    else:  # accelerate would import DeepSpeed only to see that it is not used: two seconds
        accelerate.utils.other.is_deepspeed_available = lambda: False
    ranks = flags.sequence_parallel_size
    if ranks > 1:  # Ulysses (arXiv 2309.14509): in attention a rank has whole rows of some heads, elsewhere a part
        flags.parallelism_config = ParallelismConfig(sp_size=ranks)
        flags.parallelism_config.sp_handler.sp_attn_implementation = flags.attention
    flags.include_num_input_tokens_seen = "all"
    flags.use_cache = True  # of the saved model: memory.use_tiled_loss trains without a cache
    flags.remove_unused_columns = False  # training.collate chooses the columns
    return HfArgumentParser(RecipeArguments).parse_dict(vars(flags), allow_extra_keys=True)[0]


def load_model(config, method, flags, args: RecipeArguments):
    """The model to train, with the base's weights. config: the extended one."""
    set_seed(args.seed)
    # DeepSpeed keeps the float32 masters itself; otherwise the weights are the masters and autocast computes
    dtype = torch.bfloat16 if args.bf16 and args.deepspeed else torch.float32
    model = method.load(flags.model_name_or_path, config, attn_implementation=flags.attention, dtype=dtype)
    model.generation_config = checkpoint_writer.greedy_generation(flags.model_name_or_path, config)
    model = method.prepare(model, flags.low_rank_training)
    memory.use_tiled_loss(model, liger=flags.use_liger_kernel)
    if flags.tiled_mlp:
        memory.use_tiled_mlp(model)
    return model


def main() -> None:
    flags = parse_flags()
    name, base, length = flags.method_name, flags.model_name_or_path, flags.model_max_length
    config = checkpoint_writer.open_base(base, weights=not flags.estimate)
    method = methods.build(name, config, length, vars(flags))
    check_method(config, method, flags)
    if flags.estimate:
        print(estimate.report(config, method, flags))
        return

    args = training_arguments(flags, config)
    output = Path(args.output_dir)
    tokenizer = open_tokenizer(base)
    with args.main_process_first():
        data = training_rows.read(flags.dataset_dir)
        cut = not method.extends_rows or method.row_length < length
        data = training_rows.select(data, method.row_length, config.vocab_size, cut, flags.document_mask)
    recipe = training.recipe(args, flags, data)
    if flags.pose:
        data = training_rows.draw_skips(data, method.row_length, length, args.seed)
    settings = checkpoint_writer.run_settings(method, base, config, trained=True)
    settings |= {"low_rank_training": flags.low_rank_training, **recipe}
    with args.main_process_first():
        finished = checkpoint_writer.claim(output, settings)
    if finished:
        print_rank0(f"{output}: {name} at {length} is already trained")
        return

    extension = checkpoint_writer.context_extension(method, base, recipe)
    model = load_model(checkpoint_writer.extended_config(config, method, extension), method, flags, args)
    run = f"{name} {method.options()}, {method.original_length} -> {length} tokens, {len(data)} rows"
    step = f"{recipe['global_batch']} a step, {recipe['precision']}, attention {flags.attention}"
    print_rank0(f"{output.name}: {run}, {step}")
    tokenizer.save_pretrained = lambda folder: checkpoint_writer.copy_tokenizer(base, folder)
    training.train(model, tokenizer, data, args, flags, method)
    print_rank0(f"{output}: done")
    if args.deepspeed:  # at the interpreter's exit, threads of the libraries sometimes abort a finished run
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


if __name__ == "__main__":
    run_script(main)
