"""`stable-audio export`: convert a checkpoint, or one part of it, to another layout."""

from __future__ import annotations

import argparse

from stable_audio.audio.writable import require_file, require_folder
from stable_audio.cli.importing import importing
from stable_audio.cli.options import OR_PARTS_OR_HUB, add_dtype, add_lenient, add_no_ema

HELP = (
    "convert a checkpoint, or one part of it, to an inference file or the layout of stable-audio-tools or "
    "diffusers"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help=f"a .ckpt or .safetensors file of any layout, or a run's folder{OR_PARTS_OR_HUB}",
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
    add_lenient(parser)
    add_no_ema(parser, "--online")
    add_dtype(parser, help="convert the weights to this type; default: as they are")


def run(args: argparse.Namespace) -> int:
    with importing():
        import torch

        from stable_audio.checkpoints.convert import convert_checkpoint

    if args.layout == "diffusers":
        require_folder(args.output, "OUTPUT")
    else:
        require_file(args.output, "OUTPUT", args.checkpoint)
    path = convert_checkpoint(
        args.checkpoint,
        args.output,
        layout=args.layout,
        part=args.part,
        config=args.model_config,
        lenient=args.lenient,
        use_ema=not args.no_ema,
        dtype=getattr(torch, args.dtype) if args.dtype else None,
    )
    if path.is_dir():
        print(f"{path}: {args.part} in the layout of diffusers")
    else:
        print(f"{path}: {args.part}, {path.stat().st_size / 1e6:.1f} MB, layout '{args.layout}'")
    return 0
