"""What the benchmarks share: timing side by side, memory, lower bounds and tables."""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from stable_audio.backbones import DiT
from stable_audio.inference.devices import best_device

Work = Callable[[], object]


def new_parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser with the arguments that all benchmarks take."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default=str(best_device()))
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds; the median is printed")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 keeps PyTorch's choice")
    return parser


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Sizes of the DiT and of its inputs."""
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--frames", type=int, default=256)
    parser.add_argument("--context", type=int, default=64, help="cross-attention tokens")


def build_dit(sizes: Any, **options: Any) -> DiT:
    """The DiT of these sizes: `channels`, `dim`, `depth` and `heads`, as in `add_model_arguments`."""
    return DiT(
        io_channels=sizes.channels,
        embed_dim=sizes.dim,
        depth=sizes.depth,
        num_heads=sizes.heads,
        cond_token_dim=sizes.dim,
        global_cond_type="adaLN",
        **options,
    )


def synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def takes_processor_time(device: str) -> bool:
    """Whether works are timed by the processor's clock, which leaves out the time that other programs had:
    it is right for one thread."""
    return device == "cpu" and torch.get_num_threads() == 1


def time_together(works: dict[str, Work], *, rounds: int, device: str) -> dict[str, float]:
    """Median seconds of each work. They take turns, so that a busy machine slows all of them alike."""
    clock = time.process_time if takes_processor_time(device) else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for i in range(rounds + 1):
        for name, work in works.items():
            synchronise(device)
            start = clock()
            work()
            synchronise(device)
            if i:  # the first round warms up
                seconds[name].append(clock() - start)
    return {name: statistics.median(s) for name, s in seconds.items()}


def peak_memory(work: Work, device: str) -> int:
    """Most bytes that `work` had allocated at once, beyond what lived before."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own messages
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    alive = itertools.accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns()))
    return max(alive, default=0)


class Bound(nn.Module):
    """The matrix products and attention of a DiT, and nothing else: no norm, bias, activation, residual.

    Args:
        dim, depth, heads: of the transformer. channels: of the latents.
        context: width of the cross-attention tokens after projection; 0 for none.
        mult: inner features of the gated feed-forward per feature.
        project_context: whether cross-attention keys and values are made in every call.
        linear: product with a weight; None: torch's.
    """

    def __init__(
        self,
        *,
        dim: int,
        depth: int,
        heads: int,
        channels: int,
        context: int,
        mult: int,
        project_context: bool,
        linear: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.heads, self.project_context = heads, project_context
        self.linear = linear or F.linear

        def weight(n_in: int, n_out: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(n_out, n_in) / n_in**0.5)

        self.into, self.out = weight(channels, dim), weight(dim, channels)
        block: dict[str, tuple[int, int]] = {
            "qkv": (dim, 3 * dim),
            "o": (dim, dim),
            "up": (dim, 2 * mult * dim),
            "down": (mult * dim, dim),
        }
        if context:
            block |= {"q": (dim, dim), "kv": (context, 2 * context), "xo": (dim, dim)}
        self.blocks = nn.ModuleList(
            nn.ParameterDict({k: weight(*s) for k, s in block.items()}) for _ in range(depth)
        )

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        """x (b n channels), context (b m d) or, without project_context, one layer's (b m 2 d)."""
        x = self.linear(x, self.into)
        for block in self.blocks:
            x = self.linear(self._attend(*self.linear(x, block["qkv"]).chunk(3, -1)), block["o"])
            if context is not None:
                kv = self.linear(context, block["kv"]) if self.project_context else context
                x = self.linear(self._attend(self.linear(x, block["q"]), *kv.chunk(2, -1)), block["xo"])
            up = self.linear(x, block["up"])
            x = self.linear(up[..., : up.shape[-1] // 2], block["down"])
        return self.linear(x, self.out)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def build_bound(sizes: Any, **options: Any) -> Bound:
    """The bound of `build_dit(sizes)`."""
    return Bound(
        dim=sizes.dim,
        depth=sizes.depth,
        heads=sizes.heads,
        channels=sizes.channels,
        context=sizes.dim,
        mult=4,
        **options,
    )


def bound_step(sizes: Any, *, items: int, tokens: int, place: dict[str, Any]) -> Work:
    """Forward and backward of the products and attention of `build_dit(sizes)` alone.

    `tokens`: of an item, prepended ones included; cross-attention reads `sizes.context`. `place`: device and
    dtype.
    """
    bound = build_bound(sizes, project_context=True).to(**place)
    x = torch.randn(items, tokens, sizes.channels, **place)
    context = torch.randn(items, sizes.context, sizes.dim, **place)

    def step() -> None:
        bound.zero_grad(set_to_none=True)
        bound(x, context).square().mean().backward()

    return step


def matmul_rate(device: str, dtype: torch.dtype, *, size: int = 1024, rounds: int = 5) -> float:
    """Floating-point operations per second of a square matrix product: this machine's practical peak."""
    a, b = torch.randn(2, size, size, device=device, dtype=dtype).unbind(0)
    works: dict[str, Work] = {"matmul": lambda: a @ b}
    return 2 * size**3 / time_together(works, rounds=rounds, device=device)["matmul"]


def convolution_rate(device: str, dtype: torch.dtype, *, rounds: int = 5) -> float:
    """As `matmul_rate`, of a convolution of 256 channels: another library, which may be the faster one."""
    width, taps, length = 256, 7, 4096
    x = torch.randn(1, width, 1, length, device=device, dtype=dtype)
    weight = torch.randn(width, width, 1, taps, device=device, dtype=dtype)
    x, weight = (v.contiguous(memory_format=torch.channels_last) for v in (x, weight))
    works: dict[str, Work] = {"convolution": lambda: F.conv2d(x, weight, padding=(0, taps // 2))}
    seconds = time_together(works, rounds=rounds, device=device)["convolution"]
    return 2 * width * width * taps * length / seconds


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    cells = [[f"{c:.4g}" if isinstance(c, float) else str(c) for c in row] for row in rows]
    widths = [max(len(r[i]) for r in [list(header), *cells]) for i in range(len(header))]
    for row in [list(header), *cells]:
        left, *rest = row
        print(left.ljust(widths[0]), *(c.rjust(w) for c, w in zip(rest, widths[1:])), sep="  ")


def describe_machine(device: str, dtype: str) -> str:
    name = (
        torch.cuda.get_device_name()
        if device.startswith("cuda")
        else f"{torch.get_num_threads()} CPU threads"
    )
    return f"torch {torch.__version__}, {name}, {dtype}"


def describe_timing(device: str, dtype: str) -> str:
    """As `describe_machine`, with the kind of time that `time_together` measures."""
    kind = "processor" if takes_processor_time(device) else "wall"
    return f"{describe_machine(device, dtype)}, {kind} time"
