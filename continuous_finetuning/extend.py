"""Applies a context-extension method to a base model without training it.

    python extend.py --model_name_or_path BASE --method_name yarn --model_max_length 32768 --output_dir OUT

BASE is a Llama checkpoint folder or a hub id. Needs no GPU and no memory: no weight is read, OUT gets links to the
base's weight files, its tokenizer, and a config.json with the method's rope. The same command again does nothing.
"""

import argparse
from pathlib import Path

import checkpoint
import methods


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True, help="base model: a folder or a hub id")
    parser.add_argument("--method_name", required=True, help=", ".join(methods.available()))
    parser.add_argument("--model_max_length", type=int, required=True, help="window to reach, tokens")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the extended checkpoint")
    parser.add_argument("--cache_dir", help="where hub downloads are kept")
    methods.add_flags(parser)
    args = parser.parse_args()

    config = checkpoint.open_base(args.model_name_or_path, args.cache_dir)
    method = methods.build(args.method_name, config, args.model_max_length, vars(args))

    base = Path(args.model_name_or_path)
    if not base.is_dir():
        from huggingface_hub import snapshot_download

        patterns = [*checkpoint.WEIGHTS, *checkpoint.TOKENIZER]
        base = Path(snapshot_download(args.model_name_or_path, cache_dir=args.cache_dir, allow_patterns=patterns))
        if not list(base.glob("*.safetensors")):
            raise SystemExit(f"error: {args.model_name_or_path} has no *.safetensors weights on the hub")

    identity = {
        "method_name": args.method_name,
        "base": checkpoint.fingerprint(args.model_name_or_path, config),
        "model_max_length": args.model_max_length,
        "options": method.options(),
        "trained": False,
    }
    if checkpoint.claim(args.output_dir, identity):
        print(f"{args.output_dir}: {args.method_name} at {args.model_max_length} is there already")
        return
    record = checkpoint.record(args.method_name, method, args.model_name_or_path, trained_tokens=0, recipe={})
    extended = checkpoint.extended_config(config, method, record)
    checkpoint.copy_base_files(base, args.output_dir, weights=method.links_weights)
    if not method.links_weights:
        partial = args.output_dir / "weights.partial"
        method.load(str(base), extended, dtype="auto").save_pretrained(partial)
        checkpoint.move_in(partial, args.output_dir)
    checkpoint.greedy_generation_config(config).save_pretrained(args.output_dir)
    checkpoint.copy_modeling(method, args.output_dir)
    checkpoint.write_config(args.output_dir, extended)
    print(
        f"{args.output_dir}: {args.method_name}, {method.original_length} -> {args.model_max_length} tokens, untrained"
    )


if __name__ == "__main__":
    main()
