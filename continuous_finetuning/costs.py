"""Memory and floating-point operations of a planned training run, counted from shapes.

Weights, gradients and optimizer states as in ZeRO (arXiv 1910.02054, sections 3.1 and 5); activations by adding up what
the backward pass keeps, the method of arXiv 2205.05198, section 4.1, for Llama's layer with fused attention. Buffers
are those of DeepSpeed 0.19 with the files in ds_configs/.

P parameters, T of them trained, R ranks; n tokens on a rank; D hidden size, F width of the MLP, H and K query and
key-value heads of d, V vocabulary; L layers. Sizes are in bytes, GiB are 2^30.
"""

import math
from dataclasses import dataclass

import memory

GIB = 2**30
CONTEXT = 2 * GIB  # of each GPU: CUDA, NCCL and cuBLAS
FRAGMENTATION = 0.05  # of the rest, lost between PyTorch's blocks
PROCESS = 3 * GIB  # of the host for each rank: Python, CUDA, data
LIVE = 10**9  # weights that ZeRO-3 holds gathered at most: stage3_max_live_parameters, sub_group_size
BUCKET = 5 * 10**8  # reduce_bucket_size and allgather_bucket_size in ds_configs/stage2.json
# Share of the peak that the hardware's operations reach. Counted in this way, torchtitan's published Llama-8B at 32k
# tokens on 8 H100 comes to about 0.4, EasyContext's 7B at 64k on 8 A100 to about 0.5.
UTILISATION = 0.4
PCIE = 25e9  # bytes/s between a GPU and its host, of the 32e9 of PCIe 4.0 x16
HOST_BANDWIDTH = 200e9  # bytes/s of a node's memory, about eight channels of DDR4-3200


@dataclass(frozen=True)
class Plan:
    """All that the numbers depend on."""

    title: str
    hidden: int  # D
    intermediate: int  # F
    layers: int
    heads: int  # H
    kv_heads: int  # K
    head_dim: int  # d
    vocabulary: int  # V
    parameters: int  # P
    trainable: int  # T
    matmuls: int  # weights that a token is multiplied with
    model_flops: float  # per token of text, forward and backward
    adapters: int = 0  # LoRA's weights, of T; 0: all weights are trained
    length: int = 32768  # tokens of text in a row
    row: int = 32768  # tokens that the layers see for it, landmarks too
    keys: float = 16384  # keys that a query attends to, on average
    full_scores: bool = False  # does attention write its scores down (landmark), or never as a whole (SDPA, flash)?
    micro_batch: int = 1  # rows
    accumulation: int = 1
    gpus: int = 1  # R, of all nodes
    nodes: int = 1
    sequence_parallel: int = 1  # ranks that share a row
    zero_stage: int | None = None  # None: without DeepSpeed
    offload_optimizer: bool = False
    offload_param: bool = False
    mixed: bool = True  # bfloat16 (--bf16), or all in float32
    gradient_checkpointing: bool = True
    offload_activations: bool = False
    tiled_mlp: bool = False
    splits_rows: bool = True  # may sequence_parallel be more than 1?
    rows: int | None = None  # None: unknown
    epochs: float = 1.0
    max_steps: int = -1  # > 0 counts instead of epochs

    @property
    def tokens_per_step(self) -> int:
        return self.micro_batch * self.accumulation * self.gpus // self.sequence_parallel * self.length

    @property
    def steps(self) -> int | None:
        """Optimizer steps as Trainer counts them: the last of an epoch may be a smaller one."""
        if self.max_steps > 0:
            return self.max_steps
        if self.rows is None:
            return None
        micro_steps = math.ceil(self.rows / (self.micro_batch * self.gpus / self.sequence_parallel))
        return math.ceil(self.epochs * max(1, math.ceil(micro_steps / self.accumulation)))

    @property
    def tokens(self) -> int | None:
        """Of text, in the whole run."""
        if self.max_steps > 0:
            return self.max_steps * self.tokens_per_step
        return None if self.rows is None else round(self.rows * self.epochs) * self.length


@dataclass(frozen=True)
class Estimate:
    """gpu (one rank) and host (one node): (part, bytes, formula in words). hardware_flops: per token of text, forward
    and backward with all that is computed again."""

    plan: Plan
    gpu: list[tuple[str, float, str]]
    host: list[tuple[str, float, str]]
    hardware_flops: float

    @property
    def gpu_total(self) -> float:
        return sum(size for _, size, _ in self.gpu)

    @property
    def host_total(self) -> float:
        return sum(size for _, size, _ in self.host)

    @property
    def offload_seconds(self) -> float:
        """Per step: a GPU's share of the weights comes twice for every micro-batch, its gradients go and come, and
        Adam on the CPU reads and writes 28 bytes a weight."""
        p, number = self.plan, 2 if self.plan.mixed else 4
        moved = p.parameters * p.offload_param + p.trainable * p.offload_optimizer
        adam = 28 * p.trainable / p.nodes * p.offload_optimizer
        return p.accumulation * 2 * number * moved / p.gpus / PCIE + adam / HOST_BANDWIDTH

    def seconds_per_step(self, peak: float) -> float:
        """peak: dense bfloat16 FLOP/s of one GPU."""
        p = self.plan
        return p.tokens_per_step * self.hardware_flops / (p.gpus * peak * UTILISATION) + self.offload_seconds

    def hours(self, peak: float) -> float | None:
        p = self.plan
        if p.tokens is None:
            return None
        return p.tokens / p.tokens_per_step * self.seconds_per_step(peak) / 3600


def estimate(plan: Plan) -> Estimate:
    """Memory at the peak of a step, and operations per token."""
    p, R, c = plan, plan.gpus, 2 if plan.mixed else 4  # c: bytes of a number in the layers' products
    ranks_of_a_node = R // p.nodes
    tokens = p.micro_batch * p.row // p.sequence_parallel
    gpu, host = [], []
    if p.zero_stage is None:
        stream = 4  # bytes of a number in the residual stream: autocast leaves it in float32
        gpu.append(("weights", 4 * p.parameters, "4 P"))
        if p.mixed:
            gpu.append(("bfloat16 copies of weights", 2 * p.matmuls, "2 a weight of the layers and the head"))
        gpu.append(("gradients", 4 * p.trainable, "4 T"))
        if R > 1:
            gpu.append(("gradient buckets", 4 * p.trainable, "4 T, DistributedDataParallel"))
        gpu.append(("Adam's two moments", 8 * p.trainable, "8 T"))
        step = 0.0
    else:
        stream = c
        share = R if p.zero_stage >= 1 else 1  # of optimizer states, then of gradients, then of weights
        share_gradients, share_weights = R if p.zero_stage >= 2 else 1, R if p.zero_stage == 3 else 1
        over = [f" / {R}" if n > 1 else "" for n in (share, share_gradients, share_weights)]
        states, gradients = 12 * p.trainable / share, c * p.trainable / share_gradients
        weights = c * p.parameters / share_weights
        if p.offload_param:
            host.append(("weights", ranks_of_a_node * _pinned(weights), f"{c} P{over[2]} a rank, pinned"))
        else:
            gpu.append(("weights", weights, f"{c} P{over[2]}"))
        if p.offload_optimizer:
            host.append(("master weights, moments", ranks_of_a_node * states, f"12 T{over[0]} a rank"))
            size = _pinned(gradients) + _pinned(4 * p.trainable / share)
            host.append(("gradients", ranks_of_a_node * size, f"({c} + 4) T{over[1]} a rank, pinned"))
            step = 0.0
        else:
            gpu.append(("master weights, moments", states, f"12 T{over[0]}"))
            gpu.append(("gradients", gradients, f"{c} T{over[1]}"))
            step = 4 * min(p.trainable / share, LIVE if p.zero_stage == 3 else math.inf)  # float32 gradients
        if p.zero_stage == 3:
            gpu.append(("weights gathered for use", c * min(p.parameters, LIVE), f"{c} min(P, {LIVE:.0e})"))
            gpu.append(("reduce buckets", 2 * c * p.hidden**2, f"2 x {c} D^2"))
        elif R > 1:
            gpu.append(("reduce buckets", 2 * c * min(p.trainable, BUCKET), f"2 x {c} min(T, {BUCKET:.0e})"))
            step += c * min(p.parameters, BUCKET)

    kept, working = _layer(p, tokens, c, stream)
    inputs = tokens * p.hidden * stream  # of one layer
    if not p.gradient_checkpointing:
        activations = ("activations", p.layers * kept, "layers x all that a layer's backward reads")
    elif p.offload_activations:
        activations = ("layers' inputs", 2 * inputs, f"2 of {p.layers} x n D x {stream}, the others in host memory")
        size = ranks_of_a_node * p.layers * _pinned(inputs)
        host.append(("layers' inputs", size, f"layers x n D x {stream} a rank, pinned"))
    else:
        activations = ("layers' inputs", p.layers * inputs, f"layers x n D x {stream}")
    backward = working
    if p.gradient_checkpointing:
        backward += kept - (inputs if stream == 4 else 0)  # a float32 input is what the first norm keeps
    peaks = [
        [activations, ("one layer's backward", backward, "n x (norms, q k v, MLP) and their gradients")],
        [activations, ("the loss", _loss(p, tokens, c, stream), "n D, V D in float32, a tile of logits")],
        [("the optimizer's step", step, "float32 gradients, buckets")],
    ]
    gpu += max(peaks, key=lambda parts: sum(size for _, size, _ in parts))
    lost = FRAGMENTATION * sum(size for _, size, _ in gpu)
    gpu.append(("CUDA, fragmentation", CONTEXT + lost, f"{CONTEXT / GIB:.0f} GiB + {FRAGMENTATION:.0%}, an allowance"))
    host.append(("processes", ranks_of_a_node * PROCESS, f"{PROCESS / GIB:.0f} GiB a rank, an allowance"))
    return Estimate(p, gpu, host, _hardware_flops(p))


def _pinned(size: float) -> float:
    """Page-locked memory comes in powers of two (PyTorch's host allocator, pytorch/pytorch issue 150517)."""
    return 2.0 ** math.ceil(math.log2(size)) if size > 0 else 0.0


def _layer(p: Plan, tokens: int, c: int, stream: int) -> tuple[float, float]:
    """(what a layer's forward keeps for its backward, what the backward holds besides at most), bytes for `tokens`."""
    D, F, qkv = p.hidden, p.intermediate, (p.heads + 2 * p.kv_heads) * p.head_dim
    out = p.heads * p.head_dim
    # a norm keeps its input in float32 and the normed input; its output is kept by the products that read it: the
    # same tensor for all of them, but one cast for each under autocast
    norms = 2 * (4 + stream) * D + (c * 2 * D if stream == c else c * 5 * D)
    attention = c * (qkv + out) + 4 * p.heads  # q, k, v, output, log of the softmax's sum
    exchange = c * (qkv + out) if p.sequence_parallel > 1 else 0  # all-to-all: what is sent, beside what arrives
    scores = 5 * 4 * p.heads * p.row if p.full_scores else 0  # float32, five of that size at the peak
    mlp = 4 * c * F  # gate, its SiLU, up, their product
    mlp_peak = 6 * c * F  # when the product is gone and the gradients of three are there
    rest = max(c * (qkv + out), 3 * 4 * D) + exchange + scores  # attention's gradients, or a norm's in float32
    passing = 2 * stream * D  # gradients of the residual stream on their way
    if p.tiled_mlp:
        kept = tokens * (norms + attention)
        working = max(min(tokens, p.micro_batch * D) * mlp_peak, tokens * rest)
    else:
        kept = tokens * (norms + attention + mlp)
        working = tokens * max(mlp_peak - mlp, rest)
    return kept, working + tokens * passing


def _loss(p: Plan, tokens: int, c: int, stream: int) -> float:
    hidden = tokens * p.hidden * (4 + 4 * stream)  # the last norm, the hidden states, and the gradient of both
    tile = min(memory.LOGITS, tokens * p.vocabulary) * (4 + c)
    head = p.vocabulary * p.hidden * (4 + c + c) if not p.adapters else 0  # float32 sum, a tile's share, the result
    return hidden + tile + head


def _hardware_flops(p: Plan) -> float:
    """Per token of text: the model's, and what is computed a second time."""
    attention = 4 * p.layers * p.heads * p.head_dim * p.keys  # of the forward
    again = attention / 2  # fused attention's backward has five products, not four
    if p.gradient_checkpointing:
        again += 2 * (p.matmuls - p.vocabulary * p.hidden + p.adapters) + attention
    if p.tiled_mlp:
        again += 6 * p.layers * p.hidden * p.intermediate
    return p.model_flops + again * p.row / p.length
