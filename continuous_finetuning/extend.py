r"""Applies a context-extension method to a base model without training it.

    python extend.py --model_name_or_path BASE --method_name yarn --model_max_length 32768 --output_dir OUT

BASE is a checkpoint folder or a hub id. Needs no GPU and little memory: OUT gets links to the base's weights, its
tokenizer, and a config.json with the method's rope. (landmark adds an embedding, so its weights are rewritten.)
Rerunning the same command does nothing. `extend.sh` applies several methods.

    python extend.py --adopt --model_name_or_path Leooyii/NTK_32k_Slimpajama_1B --method_name ntk \
        --model_max_length 32768 --trained_tokens 1008402432 --output_dir OUT

imports a checkpoint that other code trained. The weights stay as they are; OUT's config.json describes the method in
the form that every evaluation here opens.
"""

import copy
from pathlib import Path

from run import Parser, positive_int, run_script, write_text

import torch
from transformers import AutoModel

import checkpoint_writer
import methods


def parse_flags():
    parser = Parser(__doc__)
    parser.add_argument("--model_name_or_path", required=True, help="base model: a folder or a hub id")
    parser.add_argument("--method_name", required=True, help=f"one of: {', '.join(methods.available())}")
    parser.add_argument("--model_max_length", type=positive_int, required=True, help="context window to reach, tokens")
    parser.add_argument(
        "--longest_text",
        type=positive_int,
        help="longest text to evaluate, tokens; some methods are set for it [--model_max_length]",
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the extended checkpoint")
    imports = parser.add_argument_group("importing a trained checkpoint")
    imports.add_argument("--adopt", action="store_true", help="the weights were trained by other code")
    imports.add_argument("--original_length", type=positive_int, help="window of its base, tokens [as its config says]")
    imports.add_argument("--trained_tokens", type=positive_int, help="tokens that it was trained on [unknown]")
    methods.add_flags(parser)
    return parser.parse_args()


def describe(config, length: int, args):
    """(the base's config, the method) for a trained checkpoint whose config is `config`. args: the flags.

    Raises ValueError if the method, with these flags, does not have the checkpoint's rope.
    """
    name, rope = args.method_name, config.rope_parameters
    cls = methods.get(name)
    if not cls.trained:
        raise ValueError(f"{name} is not trained; leave --adopt out")
    base = copy.deepcopy(config)
    if methods.has_own_rope(cls):
        kept = ("rope_theta", "partial_rotary_factor")
        base.rope_parameters = {"rope_type": "default"} | {key: rope[key] for key in kept if key in rope}
    recorded = rope.get("original_max_position_embeddings") or config.max_position_embeddings
    base.max_position_embeddings = args.original_length or recorded
    method = methods.build(name, base, length, vars(args), cls.options_in_config(config))
    lengths = [2, length] if rope["rope_type"] == "longrope" else [length]  # longrope has another rope for short texts
    for text_length in lengths:
        theirs = frequencies(base, rope, text_length)
        ours = frequencies(base, method.checkpoint_rope(), text_length)
        if not torch.allclose(theirs, ours, rtol=1e-5, atol=0):
            given = f"{name} with {method.options()}"
            raise ValueError(f"{given} does not have the rope of the checkpoint's config, {rope}; give its options")
    return base, method


def frequencies(config, rope_parameters: dict, length: int) -> torch.Tensor:
    """The frequencies of a text of `length` tokens in Transformers, times the attention factor, float32 [d/2]."""
    config = copy.deepcopy(config)
    config.rope_parameters = rope_parameters
    with torch.device("meta"):
        rotary_class = type(AutoModel.from_config(config).rotary_emb)
    rotary = rotary_class(config)
    last_position = torch.tensor([[length - 1]])
    rotary(last_position, last_position)  # sets a dynamic rope
    return rotary.inv_freq * rotary.attention_scaling


def main() -> None:
    args = parse_flags()
    name, base, output, length = args.method_name, args.model_name_or_path, args.output_dir, args.model_max_length
    if args.longest_text and methods.get(name).set_for_longest_text:
        length = args.longest_text
    config = checkpoint_writer.open_base(base)
    if args.adopt:
        config, method = describe(config, length, args)
    elif args.original_length or args.trained_tokens:
        raise ValueError("--original_length and --trained_tokens describe a trained checkpoint; they need --adopt")
    else:
        method = methods.build(name, config, length, vars(args))
    settings = checkpoint_writer.run_settings(method, base, config, trained=args.adopt)
    if checkpoint_writer.claim(output, settings):
        print(f"{output}: {name} at {length} exists already")
        return

    extension = checkpoint_writer.context_extension(method, base, recipe={})
    if args.adopt:
        extension["trained_tokens"] = args.trained_tokens
    extended = checkpoint_writer.extended_config(config, method, extension)
    partial = output / "extended.partial"
    partial.mkdir()
    checkpoint_writer.copy_tokenizer(base, partial)
    has_base_weights = type(method).load is methods.ContextExtension.load
    if args.adopt or has_base_weights:
        checkpoint_writer.link_weights(base, partial)
    else:
        method.load(base, extended, dtype="auto").save_pretrained(partial)
    checkpoint_writer.greedy_generation(base, config).save_pretrained(partial)
    write_text(partial / "config.json", extended.to_json_string(use_diff=False))
    checkpoint_writer.complete_files(method, partial)
    checkpoint_writer.move_in(partial, output)
    state = "imported" if args.adopt else "not trained"
    print(f"{output}: {name}, {method.original_length} -> {length} tokens, {state}")


if __name__ == "__main__":
    run_script(main)
