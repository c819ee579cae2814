"""What a training step costs with each strategy, and with a DDP that searches every step for idle weights.

A run's DDP keeps gradients where they are sent on a GPU, and copies them on a CPU.

    python benchmarks/strategies.py [--processes 2 --dim 256 --depth 6 --steps 8 --rounds 3]
    torchrun --nproc-per-node 8 benchmarks/strategies.py --device cuda --dim 1536 --depth 24 --frames 1024

Forward, backward and AdamW of a DiT; every process has the same batch. Strategies take turns in every round,
and a figure is the median of all steps but the first two of a turn. Memory is that of weights, gradients and
optimizer state of one process. On a CPU, processes share the cores: figures show what communication costs.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from common import print_table
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from stable_audio.backbones import BACKBONES
from stable_audio.training.processes.sharding import Sharding, split
from stable_audio.types import Conditioning

WARM_UP = 2


def main() -> None:
    args = parse()
    if "RANK" in os.environ:
        _measure(int(os.environ.get("LOCAL_RANK", 0)), args, None)
        return
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    torch.multiprocessing.spawn(_measure, args=(args, port), nprocs=args.processes)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    for name, default in {
        "processes": 2,
        "dim": 256,
        "depth": 6,
        "frames": 128,
        "batch": 1,
        "steps": 8,
        "rounds": 3,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args()


def _measure(rank: int, args: argparse.Namespace, port: int | None) -> None:
    if port is not None:
        place = f"tcp://127.0.0.1:{port}"
        torch.distributed.init_process_group("gloo", init_method=place, rank=rank, world_size=args.processes)
    else:
        torch.distributed.init_process_group("nccl" if args.device == "cuda" else "gloo")
    if args.device == "cuda":
        torch.cuda.set_device(rank)
    torch.set_num_threads(1)
    seconds: dict[str, list[float]] = {}
    held: dict[str, float] = {}
    for _ in range(args.rounds):
        for name, wrap in _strategies(args).items():
            times, held[name] = _turn(args, wrap)
            seconds.setdefault(name, []).extend(times)
    if torch.distributed.get_rank() == 0:
        _report(args, seconds, held)
    torch.distributed.destroy_process_group()


def _strategies(args: argparse.Namespace) -> dict[str, Callable[[nn.Module], nn.Module]]:
    size = torch.distributed.get_world_size()

    def ddp(**options: Any) -> Callable[[nn.Module], nn.Module]:
        return lambda model: DistributedDataParallel(model, **options)

    def parts(*shape: int) -> Callable[[nn.Module], nn.Module]:
        def wrap(model: nn.Module) -> nn.Module:
            names = ("replicas", "parts")[-len(shape) :]
            split(model, Sharding(mesh=init_device_mesh(args.device, shape, mesh_dim_names=names)))
            return model

        return wrap

    strategies = {
        "ddp, every step searched": ddp(find_unused_parameters=True),
        "ddp, gradients copied": ddp(static_graph=True),
        "ddp, gradients where they are sent": ddp(static_graph=True, gradient_as_bucket_view=True),
        "fsdp": parts(size),
    }
    if size % 2 == 0 and size > 2:
        strategies["hsdp"] = parts(2, size // 2)
    return strategies


class _Model(nn.Module):
    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__()
        heads = max(1, args.dim // 64)
        self.backbone = BACKBONES["dit"](
            io_channels=64, embed_dim=args.dim, depth=args.depth, num_heads=heads, cond_token_dim=64
        )

    def forward(self, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        return self.backbone(x, t, cond)


def _turn(args: argparse.Namespace, wrap: Callable[[nn.Module], nn.Module]) -> tuple[list[float], float]:
    """(seconds of each step, bytes that a process holds) of one strategy."""
    torch.manual_seed(0)
    model = wrap(_Model(args).to(args.device))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    x = torch.randn(args.batch, 64, args.frames, device=args.device)
    t = torch.rand(args.batch, device=args.device)
    cond = Conditioning(cross_attn=torch.randn(args.batch, 8, 64, device=args.device))
    times = []
    for _ in range(args.steps):
        torch.distributed.barrier()
        began = time.perf_counter()
        model(x, t, cond).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        if args.device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    state = [v for values in optimizer.state.values() for v in values.values()]
    weights = [*model.parameters()]
    return times[WARM_UP:], sum(map(_bytes, [*weights, *weights, *state]))


def _bytes(tensor: Any) -> int:
    local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return int(local.numel() * local.element_size())


def _report(args: argparse.Namespace, seconds: dict[str, list[float]], held: dict[str, float]) -> None:
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    first = next(iter(medians.values()))
    where = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
    print(
        f"DiT depth {args.depth}, width {args.dim}, {args.frames} frames; {where}; torch {torch.__version__}"
    )
    print(f"{torch.distributed.get_world_size()} processes\n")
    print_table(
        ("strategy", "ms per step", "ratio", "MiB held per process"),
        [(name, 1e3 * s, s / first, held[name] / 2**20) for name, s in medians.items()],
    )


if __name__ == "__main__":
    main()
