"""Continues the training of a Llama base at a longer context, with one extension method.

One CPU:    python fine-tune.py --model_name_or_path BASE --method_name yarn --model_max_length 512 \
                --dataset_dir rows.parquet --output_dir OUT
One GPU:    the same, with --bf16 True
Eight GPUs: torchrun --nproc_per_node=8 fine-tune.py ... --bf16 True --deepspeed ds_configs/stage3_offload.json

Killed at any moment, the same command goes on from the last whole checkpoint in OUT (--save_steps) and ends with the
same weights. OUT then holds the extended model, run.json (the settings) and metrics.jsonl (a line per logged step).
All flags of Transformers' TrainingArguments work; `finetune.sh` runs the study's recipe.
"""

import os
import sys
from argparse import SUPPRESS
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import AutoTokenizer, HfArgumentParser, TrainingArguments, set_seed
from transformers.utils import is_flash_attn_2_available
from transformers.utils import logging as hf_logging

import checkpoint
import methods
import packing
import training


@dataclass
class ModelArguments:
    model_name_or_path: str = field(metadata={"help": "base model: a folder or a hub id"})
    method_name: str = field(metadata={"help": f"one of: {', '.join(methods.available())}"})
    dataset_dir: str = field(metadata={"help": "hub dataset id, `datasets` folder, or JSON-lines / Parquet files"})
    model_max_length: int = field(default=32768, metadata={"help": "context window to train, tokens; the rows' length"})
    use_flash_attn: bool = field(default=True, metadata={"help": "flash attention 2 where it is installed, else SDPA"})
    low_rank_training: bool = field(default=False, metadata={"help": "LoRA instead of all weights"})
    cache_dir: str | None = field(default=None, metadata={"help": "where hub downloads are kept"})
    use_wandb: bool = field(default=False, metadata={"help": "report to Weights & Biases"})
    wandb_name: str | None = field(default=None, metadata={"help": "name of the wandb run [the output folder's name]"})


@dataclass
class RecipeArguments(TrainingArguments):
    """Transformers' own, with the study's defaults."""

    gradient_checkpointing: bool = field(default=True, metadata={"help": "recompute activations in the backward pass"})
    logging_steps: float = field(default=1, metadata={"help": "log every so many optimizer steps"})
    disable_tqdm: bool | None = field(default=True, metadata={"help": "one printed line now and then, not a bar"})


def say(line: str) -> None:
    if int(os.environ.get("RANK", 0)) == 0:
        print(line, flush=True)


def fit_to_machine(args) -> None:
    """Turns off, with one line each, what this machine cannot do; `args` is the parsed namespace, changed in place."""
    cuda = torch.cuda.is_available()
    args.use_cpu = args.use_cpu or not cuda
    if args.tf32 and not (cuda and torch.cuda.get_device_capability() >= (8, 0)):
        args.tf32 = None
        say("--tf32: no GPU with tf32 here, float32 stays float32")
    if args.bf16 and not (cuda and torch.cuda.is_bf16_supported()):
        args.bf16 = False
        say("--bf16: no GPU with bfloat16 here, training in float32")
    if args.use_flash_attn and not (cuda and is_flash_attn_2_available()):
        args.use_flash_attn = False
        missing = "no GPU here" if not cuda else "flash-attn is not installed (pip install -r requirements-gpu.txt)"
        say(f"--use_flash_attn: {missing}, attention by PyTorch's SDPA")
    if args.deepspeed:
        start_deepspeed(args, cuda)


def start_deepspeed(args, cuda: bool) -> None:
    if not Path(args.deepspeed).is_file():
        raise SystemExit(f"error: no DeepSpeed config {args.deepspeed}; give a path relative to the current folder")
    try:
        import deepspeed
    except ImportError:
        raise SystemExit("error: --deepspeed needs the package (Linux only): pip install deepspeed") from None
    one_rank = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 29500}
    for name, value in one_rank.items():  # what torchrun sets, for a plain `python fine-tune.py`
        os.environ.setdefault(name, str(value))
    if not cuda:
        deepspeed.init_distributed(dist_backend="gloo")  # before TrainingArguments, or the world size is read as 1


def parse(argv: list[str]):
    """(ModelArguments, RecipeArguments, given method options). Exits with one line on what cannot work."""
    parser = HfArgumentParser((ModelArguments, RecipeArguments), description=__doc__, allow_abbrev=False)
    parser.error = lambda message: sys.exit(f"error: {message} (--help lists the flags)")  # not 100 lines of usage
    parser.add_argument("--evaluation_strategy", dest="eval_strategy", default=SUPPRESS, help="or --eval_strategy")
    methods.add_flags(parser)
    args = parser.parse_args(argv)

    if not args.output_dir:
        raise SystemExit("error: give --output_dir")
    cls = methods.get(args.method_name)
    if not cls.trained:
        raise SystemExit(f"error: {args.method_name} is not trained; apply it with extend.py")
    if args.low_rank_training and not cls.low_rank:
        raise SystemExit(f"error: --low_rank_training: {args.method_name} trains all weights; set it to False")
    if args.eval_strategy not in ("no", None):
        raise SystemExit("error: --evaluation_strategy: there is no evaluation set here; set it to no")
    if (
        args.deepspeed
        and not cls.zero3
        and Path(args.deepspeed).is_file()
        and '"stage": 3' in Path(args.deepspeed).read_text()
    ):
        raise SystemExit(f"error: {args.method_name} cannot be trained under ZeRO stage 3; leave --deepspeed out")
    fit_to_machine(args)
    if args.report_to is None or isinstance(args.report_to, str):
        args.report_to = [args.report_to or "none"]
    if args.use_wandb and "wandb" not in args.report_to:
        args.report_to = [name for name in args.report_to if name != "none"] + ["wandb"]
    if "wandb" in args.report_to:
        training.prepare_wandb(say)
    args.include_num_input_tokens_seen = "all"
    args.run_name = args.wandb_name or args.run_name or Path(args.output_dir).name
    model_args, recipe = parser.parse_dict(vars(args), allow_extra_keys=True)
    return model_args, recipe, vars(args)


def main():
    hf_logging.disable_progress_bar()
    model_args, args, flags = parse(sys.argv[1:])
    config = checkpoint.open_base(model_args.model_name_or_path, model_args.cache_dir)
    method = methods.build(model_args.method_name, config, model_args.model_max_length, flags)
    tokenizer = AutoTokenizer.from_pretrained(model_args.model_name_or_path, cache_dir=model_args.cache_dir)
    with args.main_process_first():
        data = packing.read(model_args.dataset_dir, model_args.cache_dir)
        data = packing.rows(data, tokenizer, model_args.model_max_length, config.vocab_size, not method.extends_rows)

    recipe = training.recipe(args, model_args.dataset_dir, len(data))
    identity = {
        "method_name": model_args.method_name,
        "base": checkpoint.fingerprint(model_args.model_name_or_path, config),
        "model_max_length": model_args.model_max_length,
        "options": method.options(),
        "trained": True,
        "low_rank_training": model_args.low_rank_training,
        **recipe,
    }
    output = Path(args.output_dir)
    with args.main_process_first():
        finished = checkpoint.claim(output, identity)
    if finished:
        say(f"{output}: {model_args.method_name} at {model_args.model_max_length} is trained already")
        return

    record = checkpoint.record(model_args.method_name, method, model_args.model_name_or_path, 0, recipe)
    config = checkpoint.extended_config(config, method, record)
    set_seed(args.seed)
    attention = "flash_attention_2" if model_args.use_flash_attn else "sdpa"
    model = method.load(
        model_args.model_name_or_path,
        config,
        cache_dir=model_args.cache_dir,
        attn_implementation=attention,
        # DeepSpeed keeps the float32 masters itself; otherwise the weights are the masters and autocast computes
        dtype=torch.bfloat16 if args.bf16 and args.deepspeed else torch.float32,
    )
    model.generation_config = checkpoint.greedy_generation_config(config)
    say(
        f"{output.name}: {model_args.method_name} {method.options()}, {method.original_length} -> "
        f"{model_args.model_max_length} tokens, {len(data)} rows, {recipe['global_batch']} a step, "
        f"{attention}, {'bfloat16' if args.bf16 else 'float32'}"
    )
    model = method.prepare(model, model_args.low_rank_training)

    def finish(trained, folder: Path):
        checkpoint.copy_modeling(method, folder)
        return method.finish(trained, folder)

    training.train(model, tokenizer, data, args, finish)
    say(f"{output}: done")


if __name__ == "__main__":
    main()
