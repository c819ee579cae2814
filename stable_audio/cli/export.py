"""`stable-audio export`: convert a checkpoint, or one part of it, to another layout."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from stable_audio.cli.options import add_dtype, add_no_ema

HELP = (
    "convert a checkpoint, or one part of it, to an inference file or the layout of stable-audio-tools or "
    "diffusers"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help="a .ckpt or .safetensors file of any layout, or a run's folder",
    )
    parser.add_argument(
        "output", metavar="OUTPUT", help="file to write, .safetensors or .ckpt; a folder for diffusers"
    )
    parser.add_argument(
        "--layout", choices=["ours", "sat", "diffusers"], default="ours", help="key names (%(default)s)"
    )
    parser.add_argument(
        "--part",
        choices=["model", "backbone", "conditioner", "pretransform"],
        default="model",
        help="what to write; a pretransform is written as an autoencoder (%(default)s)",
    )
    parser.add_argument("--model-config", help="model file, if the checkpoint has none inside or beside it")
    add_no_ema(parser, "--online")
    add_dtype(parser, help="convert the weights to this type; default: as they are")


def run(args: argparse.Namespace) -> int:
    import torch

    from stable_audio.checkpoints import CheckpointError, export
    from stable_audio.checkpoints.loading import load_reported
    from stable_audio.checkpoints.saving import refuse_transforms

    model, config, report = load_reported(args.checkpoint, config=args.model_config, use_ema=not args.no_ema)
    dtype = getattr(torch, args.dtype) if args.dtype else None
    if args.layout == "diffusers":
        write = _diffusers(model, args)
        try:
            refuse_transforms(report.transforms)
            folder = write(model, args.output, config=config.as_dict(), dtype=dtype)
        except CheckpointError as error:
            raise CheckpointError(f"{args.checkpoint}: {error}") from error
        print(f"{folder}: {args.part} in the layout of diffusers")
        return 0
    path = export(
        model,
        args.output,
        config=config.as_dict(),
        layout=args.layout,
        dtype=dtype,
        part=args.part,
        transforms=report.transforms,
    )
    print(f"{path}: {args.part}, {path.stat().st_size / 1e6:.1f} MB, layout '{args.layout}'")
    return 0


def _diffusers(model: Any, args: argparse.Namespace) -> Callable[..., Any]:
    from stable_audio.checkpoints import diffusers
    from stable_audio.model import DiffusionModel

    if args.part == "conditioner":
        raise ValueError(
            "--part conditioner: diffusers keeps conditioners in a pipeline; leave --part out, or use "
            "--layout ours or sat"
        )
    if not isinstance(model, DiffusionModel) and args.part != "pretransform":
        raise ValueError(
            f"{args.checkpoint}: only diffusion models have a pipeline in the layout of diffusers; an "
            "autoencoder is exported by --part pretransform"
        )
    writers: dict[str, Callable[..., Any]] = {
        "model": diffusers.export_diffusers,
        "backbone": diffusers.export_diffusers_backbone,
        "pretransform": diffusers.export_diffusers_autoencoder,
    }
    return writers[args.part]
