"""Applies a context-extension method to a base model without training it.

    python extend.py --model_name_or_path BASE --method_name yarn --model_max_length 32768 --output_dir OUT

BASE is a Llama checkpoint folder or a hub id. Needs no GPU and no memory: no weight is read, OUT gets links to the
base's weight files, its tokenizer, and a config.json with the method's rope (landmark alone needs one more row of
embeddings, so its weights are written anew). The same command again does nothing.

    python extend.py --adopt --model_name_or_path Leooyii/NTK_32k_Slimpajama_1B --method_name ntk \
        --model_max_length 32768 --trained_tokens 1008402432 --output_dir OUT

adopts a checkpoint that other code trained, with `rope_scaling` of type linear, dynamic or yarn in its config: the
weights stay as they are, OUT's config.json says the same in the form that every evaluation here opens.
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
    adopting = parser.add_argument_group("adopting a trained checkpoint")
    adopting.add_argument("--adopt", action="store_true", help="the weights are trained already, by other code")
    adopting.add_argument("--original_length", type=int, help="its base's window, tokens [as its config says]")
    adopting.add_argument("--trained_tokens", type=int, help="how many tokens it was trained on [unknown]")
    methods.add_flags(parser)
    args = parser.parse_args()

    config = checkpoint.open_base(args.model_name_or_path, args.cache_dir)
    if args.adopt:
        config, method = methods.adopt(
            args.method_name, config, args.original_length, args.model_max_length, vars(args)
        )
    elif args.original_length or args.trained_tokens:
        raise SystemExit(
            "error: --original_length and --trained_tokens tell of a trained checkpoint; they need --adopt"
        )
    else:
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
        "trained": args.adopt,
    }
    if checkpoint.claim(args.output_dir, identity):
        print(f"{args.output_dir}: {args.method_name} at {args.model_max_length} is there already")
        return
    trained_tokens = args.trained_tokens if args.adopt else 0
    record = checkpoint.record(args.method_name, method, args.model_name_or_path, trained_tokens, recipe={})
    extended = checkpoint.extended_config(config, method, record)
    linked = args.adopt or method.links_weights
    checkpoint.copy_base_files(base, args.output_dir, weights=linked)
    if not linked:
        partial = args.output_dir / "weights.partial"
        method.load(str(base), extended, dtype="auto").save_pretrained(partial)
        checkpoint.move_in(partial, args.output_dir)
    checkpoint.greedy_generation_config(config).save_pretrained(args.output_dir)
    checkpoint.copy_modeling(method, args.output_dir)
    checkpoint.write_config(args.output_dir, extended)
    state = "adopted" if args.adopt else "not trained"
    print(f"{args.output_dir}: {args.method_name}, {method.original_length} -> {args.model_max_length} tokens, {state}")


if __name__ == "__main__":
    main()
