"""Continues the training of a Llama base at a longer context, with one extension method.

One CPU:    python fine-tune.py --model_name_or_path BASE --method_name yarn --model_max_length 512 \
                --dataset_dir rows.parquet --output_dir OUT
One GPU:    the same, with --bf16 True
Eight GPUs: torchrun --nproc_per_node=8 fine-tune.py ... --bf16 True --deepspeed ds_configs/stage3_offload.json
Before:     python fine-tune.py ... --estimate 8xH100       prints the memory and the hours that a run will need

Killed at any moment, the same command goes on from the last whole checkpoint in OUT (--save_steps) and ends with the
same weights. OUT then holds the extended model, run.json (the settings) and metrics.jsonl (a line per logged step).
All flags of Transformers' TrainingArguments work; `finetune.sh` runs the study's recipe.
"""

import atexit
import os
import sys

if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:  # its older name
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")  # long rows fragment a GPU's memory

from pathlib import Path  # noqa: E402

import torch  # noqa: E402
from transformers import AutoTokenizer, set_seed  # noqa: E402
from transformers.utils import logging as hf_logging  # noqa: E402

import arguments  # noqa: E402
import checkpoint  # noqa: E402
import estimate  # noqa: E402
import memory  # noqa: E402
import methods  # noqa: E402
import packing  # noqa: E402
import training  # noqa: E402
from arguments import say  # noqa: E402


def main():
    hf_logging.disable_progress_bar()
    model_args, args, flags = arguments.parse(sys.argv[1:], __doc__)
    config = checkpoint.open_base(model_args.model_name_or_path, model_args.cache_dir, weights=args is not None)
    method = methods.build(model_args.method_name, config, model_args.model_max_length, vars(flags))
    if model_args.document_mask and not method.document_mask:
        raise SystemExit(f"error: --document_mask: {model_args.method_name} cuts its rows itself; leave it out")
    ranks, heads, kv_heads = model_args.sequence_parallel_size, config.num_attention_heads, config.num_key_value_heads
    if heads % ranks or (kv_heads % ranks and ranks % kv_heads):
        raise SystemExit(
            f"error: --sequence_parallel_size {ranks} does not divide the base's {heads} query heads and its "
            f"{kv_heads} key-value heads (or is no multiple of the latter); give one that does"
        )
    if args is None:
        print(estimate.report(config, method, flags))
        return
    tokenizer = AutoTokenizer.from_pretrained(model_args.model_name_or_path, cache_dir=model_args.cache_dir)
    with args.main_process_first():
        data = packing.read(model_args.dataset_dir, model_args.cache_dir)
        data = packing.rows(
            data, tokenizer, model_args.model_max_length, config.vocab_size, not method.extends_rows,
            model_args.document_mask,
        )  # fmt: skip

    recipe = training.recipe(args, model_args, len(data))
    identity = {
        "method_name": model_args.method_name,
        "base": checkpoint.fingerprint(model_args.model_name_or_path, config),
        "model_max_length": model_args.model_max_length,
        "options": method.options(),
        "trained": True,
        "low_rank_training": model_args.low_rank_training,
        **recipe,
    }
    estimate.check(config, method, flags)
    output = Path(args.output_dir)
    with args.main_process_first():
        held = checkpoint.lock(output) if args.process_index == 0 else None  # noqa: F841  until this process ends
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
    memory.use_tiled_loss(model, offload=model_args.offload_activations)
    if model_args.tiled_mlp:
        memory.use_tiled_mlp(model)
    training.train(model, tokenizer, data, args, model_args, method)
    say(f"{output}: done")
    if args.deepspeed:
        # On the interpreter's own way out, threads of the libraries abort a finished run now and then ("terminate
        # called without an active exception"): do what is left to do, and leave at once.
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


if __name__ == "__main__":
    main()
