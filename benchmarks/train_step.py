"""A DiT in one process: network and whole training steps in several ways, sampling with guidance, and bounds.

python benchmarks/train_step.py [--only network steps sampling --types float32 bfloat16 --threads 1]

network: forward, backward and AdamW of the network alone, against its matrix products and attention alone.
steps: plain (all layers recomputed, the graph searched for unused parameters, the average taken parameter by
parameter, the loss read in every step), eager (as a run takes it), compiled. sampling: as `inference.py`.
bfloat16 is by autocast in steps. With one CPU thread, time is that of the processor, without other programs'.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any

import inference
import torch
from common import (
    Bound,
    add_model_arguments,
    bound_step,
    build_bound,
    build_dit,
    describe_machine,
    new_parser,
    peak_memory,
    print_table,
    time_together,
)
from torch import Tensor
from training_steps import STEPS, Setup, Step

from stable_audio.backbones import DiT
from stable_audio.types import Conditioning


def main() -> None:
    args = parse()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print(f"DiT depth {args.depth}, width {args.dim}; batch {args.batch} x {args.frames} frames")
    print(f"{describe_machine(args.device, args.dtype)}, {torch.backends.cpu.get_cpu_capability()}\n")
    for part in args.only:
        PARTS[part](args)
        print(flush=True)


def network(args: argparse.Namespace) -> None:
    dit, bound, inputs = build(args)
    x, t, context = inputs
    tokens = args.batch * args.frames
    optimizers = {m: torch.optim.AdamW(m.parameters(), lr=1e-6, fused=True) for m in (dit, bound)}

    def model_forward() -> Tensor:
        return dit(x, t, Conditioning(cross_attn=context))

    def bound_forward() -> Tensor:
        return bound(x.mT, context)

    def backward(forward: Any) -> Any:
        return lambda: forward().square().mean().backward()

    def step(forward: Any, module: Any) -> Any:
        def work() -> None:
            backward(forward)()
            optimizers[module].step()
            optimizers[module].zero_grad(set_to_none=True)

        return work

    def recomputed() -> None:
        dit.enable_gradient_checkpointing()
        step(model_forward, dit)()
        dit.enable_gradient_checkpointing(False)

    works = {
        "forward": (torch.no_grad()(model_forward), torch.no_grad()(bound_forward)),
        "forward + backward": (backward(model_forward), backward(bound_forward)),
        "step with AdamW": (step(model_forward, dit), step(bound_forward, bound)),
        "step, recomputing": (recomputed, step(bound_forward, bound)),
    }
    rows = []
    for name, (model, lower) in works.items():
        times = time_together({"model": model, "bound": lower}, rounds=args.rounds, device=args.device)
        rows.append(
            (
                name,
                1 / times["model"],
                tokens / times["model"],
                tokens / times["bound"],
                times["model"] / times["bound"],
                peak_memory(model, args.device) / 2**20,
                peak_memory(lower, args.device) / 2**20,
            )
        )
    print_table(
        (dit_size(dit), "steps/s", "tokens/s", "bound tokens/s", "time ratio", "peak MiB", "bound MiB"),
        rows,
    )


def steps(args: argparse.Namespace) -> None:
    """Whole steps in every way and type, all in turn."""
    works: dict[tuple[str, str], Step] = {}
    for dtype in args.types:
        setup = Setup(
            model_config(args),
            args.batch,
            args.frames,
            args.device,
            precision=PRECISIONS[dtype],
        )
        works |= {(dtype, way): STEPS[way](setup) for way in args.ways}
        works[dtype, "bound"] = bound_step(args, items=args.batch, tokens=args.frames, place=setup.place)
    named = {f"{way}, {dtype}": work for (dtype, way), work in works.items()}
    times = time_together(named, rounds=args.rounds, device=args.device)
    first = args.types[0], args.ways[0]
    rows = []
    for dtype, way in works:
        seconds = times[f"{way}, {dtype}"]
        rows.append(
            (
                f"{way} step",
                dtype,
                1e3 * seconds,
                args.batch * args.frames / seconds,
                seconds / times["{1}, {0}".format(*first)],
                seconds / times[f"bound, {dtype}"],
                peak_memory(works[dtype, way], args.device) / 2**20,
            )
        )
    print_table(("", "", "ms", "frames/s", f"of {first[1]}, {first[0]}", "of the bound", "peak MiB"), rows)


def sampling(args: argparse.Namespace) -> None:
    """Euler steps with guidance, in the ways of `inference.py`."""
    size = inference.Size(
        dim=args.dim,
        depth=args.depth,
        heads=args.heads,
        frames=args.frames,
        context=args.context,
        channels=args.channels,
    )
    ways = [way for way in inference.WAYS if way != "bound of oneDNN" or args.device == "cpu"]
    if "bfloat16" not in args.types:
        ways = [way for way in ways if "bfloat16" not in way]
    if "compiled" not in args.ways:
        ways = [way for way in ways if "compiled" not in way]
    how = argparse.Namespace(**vars(args) | {"ways": ways, "steps": args.sampling_steps, "cfg_scale": 4.0})
    print_table(inference.HEAD, inference.measure("sampling", size, args.batch, how))


PRECISIONS = {"float32": "32-true", "bfloat16": "bf16-mixed"}
PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "network": network,
    "steps": steps,
    "sampling": sampling,
}


def parse() -> argparse.Namespace:
    parser = new_parser(__doc__)
    add_model_arguments(parser)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="tables to print")
    parser.add_argument("--ways", nargs="+", choices=list(STEPS), default=list(STEPS))
    parser.add_argument("--types", nargs="+", choices=list(PRECISIONS), help="both, where both are fast")
    parser.add_argument("--sampling-steps", type=int, default=2)
    args = parser.parse_args()
    args.types = args.types or [kind for kind in PRECISIONS if kind == "float32" or has_bfloat16(args.device)]
    return args


def has_bfloat16(device: str) -> bool:
    """Whether products in bfloat16 have instructions of their own; others take many times as long."""
    return device != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()


def model_config(args: argparse.Namespace) -> dict[str, Any]:
    """A model file with the DiT of `build_dit` over stored latents."""
    text = {"id": "prompt", "type": "t5", "config": {"max_length": args.context}}
    return {
        "model_type": "diffusion_cond",
        "sample_size": args.frames,
        "sample_rate": 44100,
        "audio_channels": args.channels,
        "model": {
            "io_channels": args.channels,
            "conditioning": {"configs": [text], "cond_dim": args.dim},
            "diffusion": {
                "type": "dit",
                "cross_attention_cond_ids": ["prompt"],
                "config": {
                    "io_channels": args.channels,
                    "embed_dim": args.dim,
                    "depth": args.depth,
                    "num_heads": args.heads,
                    "cond_token_dim": args.dim,
                    "global_cond_type": "adaLN",
                },
            },
        },
        "training": {"learning_rate": 1e-5},
    }


def build(args: argparse.Namespace) -> tuple[DiT, Bound, tuple[Tensor, Tensor, Tensor]]:
    place = {"device": args.device, "dtype": getattr(torch, args.dtype)}
    dit = build_dit(args).to(**place)
    bound = build_bound(args, project_context=True).to(**place)
    x = torch.randn(args.batch, args.channels, args.frames, **place)
    context = torch.randn(args.batch, args.context, args.dim, **place)
    return dit, bound, (x, torch.rand(args.batch, device=args.device), context)


def dit_size(dit: DiT) -> str:
    return f"{sum(p.numel() for p in dit.parameters()) / 1e6:.1f}M"


if __name__ == "__main__":
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "2")
    main()
