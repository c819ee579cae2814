"""Layers against their plain form: attention of convolutions, snake, rotation, SwiGLU; time and memory.

python benchmarks/layers.py [--frames 4096]

The plain forms are what the same formula costs when it is written down and nothing else is done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from common import Work, describe_machine, new_parser, peak_memory, print_table, time_together
from torch import Tensor

from stable_audio.nn.fused import fused_attention
from stable_audio.nn.rotary import RotaryEmbedding, rotated_parts
from stable_audio.nn.snake import snake
from stable_audio.nn.swiglu import swiglu

HEADS, WIDTH = 8, 32


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--frames", type=int, default=4096)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    place = {"device": args.device, "dtype": getattr(torch, args.dtype)}
    torch.manual_seed(0)
    print(f"{describe_machine(args.device, args.dtype)}; forward and backward, {args.frames} frames")
    works: dict[str, Work] = {}
    for layers in (attention, activation, rotary, gate):
        works |= layers(args.frames, place)
    times = time_together(works, rounds=args.rounds, device=args.device)
    rows = []
    for name in works:
        plain = name.split(", ")[0] + ", plain"
        memory = peak_memory(works[name], args.device) / 2**20
        rows.append((name, 1000 * times[name], times[name] / times[plain], memory))
    print_table(("", "ms", "of plain", "peak MiB"), rows)


def backward(fn: Callable[[], Tensor | Sequence[Tensor]], *leaves: Tensor) -> Work:
    def work() -> None:
        for leaf in leaves:
            leaf.grad = None
        y = fn()
        outs = [y] if isinstance(y, Tensor) else list(y)
        torch.autograd.backward(outs, [torch.ones_like(out) for out in outs])

    return work


def attention(frames: int, place: dict) -> dict[str, Work]:
    """Queries, keys and values (b h d n), as a convolution makes them."""
    qkv = torch.randn(3, 1, HEADS, WIDTH, frames, **place, requires_grad=True)

    def run(kernel) -> Work:
        return backward(lambda: kernel(*qkv.transpose(-1, -2).unbind(0)), qkv)

    return {
        "attention, plain": run(F.scaled_dot_product_attention),
        "attention, fused": run(fused_attention),
    }


def activation(frames: int, place: dict) -> dict[str, Work]:
    x = torch.randn(1, HEADS * WIDTH, 4 * frames, **place, requires_grad=True)
    f, a = (torch.rand(HEADS * WIDTH, 1, **place, requires_grad=True) for _ in range(2))
    return {
        "snake, plain": backward(lambda: x + a * torch.sin(f * x).square(), x, f, a),
        "snake, keeps x alone": backward(lambda: snake(x, f, a), x, f, a),
    }


def rotary(frames: int, place: dict) -> dict[str, Work]:
    """Queries, keys and values (b n 3 h d) of one projection, the first two rotated."""
    x = torch.randn(1, frames, 3, HEADS, 2 * WIDTH, **place, requires_grad=True)
    tables = RotaryEmbedding(WIDTH).to(place["device"])(frames)

    def slices(x: Tensor) -> Tensor:
        half = tables.cos.shape[-1]
        cos, sin = tables.cos[:, None, :], tables.sin[:, None, :]
        first, second = x[..., :half].float(), x[..., half : 2 * half].float()
        turned = [(first * cos - second * sin).to(x.dtype), (second * cos + first * sin).to(x.dtype)]
        return torch.cat([*turned, x[..., 2 * half :]], dim=-1)

    def plain(x: Tensor) -> Sequence[Tensor]:
        q, k, v = x.unbind(2)
        return slices(q), slices(k), v

    return {
        "rotary, plain": backward(lambda: plain(x), x),
        "rotary, one gradient": backward(lambda: rotated_parts(x, tables, (True, True, False)), x),
    }


def gate(frames: int, place: dict) -> dict[str, Work]:
    x = torch.randn(1, frames, 16 * HEADS * WIDTH, **place, requires_grad=True)

    def plain() -> Tensor:
        value, gate = x.chunk(2, dim=-1)
        return value * F.silu(gate)

    return {
        "swiglu, plain": backward(plain, x),
        "swiglu, one gradient": backward(lambda: swiglu(x), x),
    }


if __name__ == "__main__":
    main()
