"""What the evaluations of a study will take: tokens, GPU-hours and memory, counted from the model's shape alone.

    python study_costs.py --config BASE/config.json --checkpoints 11 --gpu H100 --ruler 4096 32768

`bash study.sh --dry_run` calls it; fine-tuning is estimated by `fine-tune.py --estimate`. Reads one config.json, needs
no GPU and no library. A prompt's token costs 2 operations a weight and 4 layers D a key that it attends to, half the
prompt on average; UTILISATION of the GPU's peak is assumed. An answer's token reads all weights once for BATCH prompts.
Rough: starts, loading and scoring are not in it, what prompts share is not taken off, and answers are counted whole.
"""

import argparse
import json

# GiB, dense bfloat16 TFLOP/s, TB/s of memory, of NVIDIA's data sheets
GPUS = {"A100": (80, 312, 2.0), "H100": (80, 989, 3.35), "H200": (141, 989, 4.8)}
UTILISATION = 0.4
BATCH = 4  # answers decoded together
BOOK = 100_000  # tokens of one of the ten texts for perplexity; assumed
STRIDE = 256  # tokens between two windows

# LongBench: rows, mean tokens of a prompt (1.4 a word, assumed) and of an answer over the 16 sets (arXiv 2308.14508,
# table 1). Many-shot TREC: shots, at 25 tokens each (assumed)
LONGBENCH = (3750, 9_400, 136)
TREC_ROWS, TREC_SHOTS, SHOT, TREC_ANSWER = (
    200,
    (1, 5, 10, 25, 50, 75, 100, 200, 300, 400, 500, 625, 750, 875, 1000),
    25,
    64,
)
RULER_TASKS, RULER_ANSWER = 13, 90


def prompts_of(args) -> dict[str, list[tuple[int, int, int]]]:
    """Of each benchmark (prompts, tokens of a prompt, tokens of an answer), for one checkpoint."""
    window = max(args.window, 1)
    work = {
        "perplexity": [(args.texts * 10 * max(1, (BOOK - n) // STRIDE), n, 0) for n in args.perplexity],
        "needle": [(10, n, 50) for n in args.needle],
        "longbench": [(LONGBENCH[0], min(LONGBENCH[1], window), LONGBENCH[2])] if args.longbench else [],
        "trec": [(TREC_ROWS, min(200 + SHOT * n, window), TREC_ANSWER) for n in TREC_SHOTS] if args.trec else [],
        "ruler": [(RULER_TASKS * args.ruler_samples, n, RULER_ANSWER) for n in args.ruler],
    }
    if args.max_windows:
        work["perplexity"] = [(min(k, args.max_windows), n, new) for k, n, new in work["perplexity"]]
    return {name: parts for name, parts in work.items() if parts}


def hours(config: dict, gpu: str, prompts: int, length: int, new: int) -> float:
    """GPU-hours for so many prompts of `length` tokens, each with an answer of `new`."""
    _, peak, bandwidth = GPUS[gpu]
    weights, layers, width = count_weights(config), config["num_hidden_layers"], config["hidden_size"]
    operations = prompts * length * (2 * weights + 4 * layers * width * length / 2)
    prefill = operations / (UTILISATION * peak * 1e12)
    decode = prompts * new * (2 * weights / BATCH + cache_bytes(config) * length) / (bandwidth * 1e12)
    return (prefill + decode) / 3600


def heads(config: dict) -> tuple[int, int]:
    """Key-value heads and the width of one."""
    d = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return config.get("num_key_value_heads") or config["num_attention_heads"], d


def count_weights(config: dict) -> int:
    """That a token is multiplied with: the layers' and the LM head's."""
    D, (kv, d) = config["hidden_size"], heads(config)
    layer = D * (2 * config["num_attention_heads"] * d + 2 * kv * d + 3 * config["intermediate_size"])
    return config["num_hidden_layers"] * layer + D * config["vocab_size"]


def cache_bytes(config: dict) -> int:
    """Keys and values of a token in bfloat16."""
    kv, d = heads(config)
    return 2 * 2 * config["num_hidden_layers"] * kv * d


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="the base's config.json")
    parser.add_argument("--checkpoints", type=int, required=True, help="how many are evaluated")
    parser.add_argument("--gpu", default="H100", choices=GPUS)
    parser.add_argument("--window", type=int, default=32768, help="tokens that LongBench's prompts are cut to")
    parser.add_argument("--texts", type=int, default=2, help="token files for perplexity [2]")
    for name in ("perplexity", "needle", "ruler"):
        parser.add_argument(f"--{name}", type=int, nargs="*", default=[], help="lengths, tokens")
    parser.add_argument("--max_windows", type=int, help="of each length of perplexity")
    parser.add_argument("--ruler_samples", type=int, default=500)
    parser.add_argument("--longbench", action="store_true")
    parser.add_argument("--trec", action="store_true")
    args = parser.parse_args()
    with open(args.config) as file:
        config = json.load(file)
    size = GPUS[args.gpu][0]
    print(f"evaluations of {args.checkpoints} checkpoints, {args.gpu}s at {UTILISATION:.0%} (assumed) of their peak:\n")
    print("| benchmark | prompts | tokens of prompts | GPU-hours, each | all | memory of the longest, GiB |")
    print("|---|---|---|---|---|---|")
    total = 0
    for name, parts in prompts_of(args).items():
        each = sum(hours(config, args.gpu, *part) for part in parts)
        total += each * args.checkpoints
        longest = max(length + new for _, length, new in parts)
        memory = (2 * count_weights(config) + cache_bytes(config) * longest) / 2**30
        note = "" if memory < 0.9 * size else f" (more than {args.gpu} has: vLLM on several, or --cache_on_cpu)"
        tokens = sum(k * n for k, n, _ in parts)
        print(
            f"| {name} | {sum(k for k, _, _ in parts):,} | {tokens / 1e6:,.1f} M | {each:.1f} | "
            f"{each * args.checkpoints:.0f} | {memory:.0f}{note} |"
        )
    print(f"\ntogether {total:.0f} GPU-hours; on 8 GPUs, a checkpoint each: {total / 8:.0f} hours")


if __name__ == "__main__":
    main()
