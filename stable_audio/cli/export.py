"""`stable-audio export`: a checkpoint of any layout -> a weights file of the layout asked for."""

from __future__ import annotations

import argparse

HELP = "convert a checkpoint: to an inference file, or to stable-audio-tools' or diffusers' layout"

_DTYPES = {"float32": "float32", "float16": "float16", "bfloat16": "bfloat16"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="a .ckpt or .safetensors file of any layout, or a run's folder")
    parser.add_argument("output", help="file to write, .safetensors or .ckpt; a folder for diffusers")
    parser.add_argument(
        "--layout", choices=["ours", "sat", "diffusers"], default="ours", help="key names (%(default)s)"
    )
    parser.add_argument("--model-config", help="model file, when the checkpoint has none inside or beside it")
    parser.add_argument("--online", action="store_true", help="the weights as trained, not their average")
    parser.add_argument("--dtype", choices=list(_DTYPES), help="cast weights; default: as they are")


def run(args: argparse.Namespace) -> int:
    import torch

    from stable_audio.checkpoints import export, load_model
    from stable_audio.checkpoints.diffusers import export_diffusers
    from stable_audio.model import DiffusionModel

    model, config = load_model(args.checkpoint, config=args.model_config, use_ema=not args.online)
    if args.layout == "diffusers":
        if not isinstance(model, DiffusionModel):
            raise ValueError(f"{args.checkpoint}: only diffusion models have a diffusers layout")
        print(f"{export_diffusers(model, args.output, config=config.as_dict())}: a diffusers pipeline")
        return 0
    dtype = getattr(torch, _DTYPES[args.dtype]) if args.dtype else None
    path = export(model, args.output, config=config.as_dict(), layout=args.layout, dtype=dtype)
    size = path.stat().st_size / 1e6
    print(f"{path}: {len(model.state_dict())} tensors, {size:.1f} MB, layout '{args.layout}'")
    return 0
