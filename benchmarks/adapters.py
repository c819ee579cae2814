"""A step of sampling with adapters, against the model without and one with them merged, in one process.

python benchmarks/adapters.py [--depth 8 --dim 512 --frames 256 --rank 16 --steps 8]

The step is a call of the backbone with guidance. Every work takes its turn in every round, so that a busy
machine slows all of them alike; ratios are to the model without adapters. `first` is the time of the first
call, in which updated weights are computed, and `stored` the memory that they take afterwards.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from common import (
    add_model_arguments,
    build_dit,
    describe_machine,
    new_parser,
    print_table,
    synchronise,
    time_together,
)
from torch import Tensor, nn

from stable_audio.adapters import ADAPTER_TYPES, AdapterSettings, AdapterStack, AdapterUse, with_adapters
from stable_audio.adapters.stack import Gate
from stable_audio.diffusion.guidance import Guidance
from stable_audio.diffusion.objectives import OBJECTIVES
from stable_audio.diffusion.sampling import sample
from stable_audio.types import Conditioning


class Model(nn.Module):
    """The parts of a diffusion model that adapters need."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone, self.conditioner = backbone, None
        self.objective = OBJECTIVES["rectified_flow"]()


def main() -> None:
    args = parse()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    place = {"device": args.device, "dtype": getattr(torch, args.dtype)}
    model = Model(build_dit(args).to(**place).eval())
    noise = torch.randn(args.batch, args.channels, args.frames, device=args.device)
    cond = Conditioning(cross_attn=torch.randn(args.batch, args.context, args.dim, **place))

    @torch.no_grad()
    def generate(chosen: Any) -> Tensor:
        predict = Guidance(
            chosen.backbone, model.objective, cond, cfg_scale=args.cfg_scale, dtype=place["dtype"]
        )
        return sample(
            predict,
            noise,
            objective=model.objective,
            noise=torch.zeros_like,
            sampler="euler",
            steps=args.steps,
        )

    models = {"base": model, **_adapted(model, args)}
    first = {name: _first(generate, chosen, args.device) for name, chosen in models.items()}
    times = time_together(
        {name: lambda m=chosen: generate(m) for name, chosen in models.items()},
        rounds=args.rounds,
        device=args.device,
    )
    print(f"DiT depth {args.depth}, width {args.dim}; batch {args.batch} x {args.frames} frames")
    print(f"{describe_machine(args.device, args.dtype)}\n")
    print_table(
        ("model", "ms per step", "ratio", "first, steps", "stored, MiB"),
        [
            (
                name,
                1e3 * seconds / args.steps,
                seconds / times["base"],
                first[name] / (times["base"] / args.steps),
                _stored(models[name]) / 2**20,
            )
            for name, seconds in times.items()
        ],
    )


def _adapted(model: Model, args: argparse.Namespace) -> dict[str, Any]:
    """The works besides the model itself."""
    uses = {kind: AdapterUse(adapter=_adapter(model, kind, args.rank)) for kind in args.types}
    some = uses[args.types[0]]
    merged = with_adapters(model, [some])
    AdapterStack(merged.backbone).merge()
    gates = [Gate((0.0, 0.3)), Gate((0.3, 0.7)), Gate((0.7, 1.0))]
    gated = [AdapterUse(adapter=some.adapter, gate=gate) for gate in gates]
    return {
        "merged": merged,
        **{kind: with_adapters(model, [use]) for kind, use in uses.items()},
        **{f"{kind}, thin": with_adapters(model, [use], thin=True) for kind, use in uses.items()},
        "two": with_adapters(model, [some, some]),
        "three, gated": with_adapters(model, gated),
    }


def _adapter(model: Model, kind: str, rank: int) -> Any:
    stack = AdapterStack(model.backbone)
    index = stack.add(AdapterSettings(rank=rank, adapter_type=kind))
    with torch.no_grad():
        for parameter in stack.parameters(index):
            parameter.add_(0.01 * torch.randn_like(parameter))
    adapter = stack.adapter(index)
    stack.remove(index)
    return adapter


def _first(generate: Any, model: Any, device: str) -> float:
    synchronise(device)
    start = time.perf_counter()
    generate(model)
    synchronise(device)
    return time.perf_counter() - start


def _stored(model: Any) -> int:
    """Bytes of updated weights that the layers keep."""
    kept = [layer.__dict__.get("_effective") for layer in model.modules()]
    return sum(entry[1].numel() * entry[1].element_size() for entry in kept if entry is not None)


def parse() -> argparse.Namespace:
    parser = new_parser(__doc__)
    add_model_arguments(parser)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--cfg-scale", type=float, default=4.0)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument(
        "--types",
        nargs="+",
        default=["lora", "dora-rows", "dora-cols", "bora", "lora-xs"],
        choices=ADAPTER_TYPES,
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
