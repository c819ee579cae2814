"""Options shared by the commands that encode audio into latents and decode it."""

from __future__ import annotations

import argparse
from typing import Any

from stable_audio.cli.fields import given
from stable_audio.cli.numbers import at_least
from stable_audio.cli.options import OR_PARTS_OR_HUB, add_device, add_lenient


def add_codec_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose a pretransform and its device."""
    parser.add_argument(
        "--model-config", help="model file of an autoencoder, or of a model with a pretransform"
    )
    parser.add_argument(
        "--ckpt-path", help=f"weights of the autoencoder, or of the whole model{OR_PARTS_OR_HUB}"
    )
    parser.add_argument(
        "--allow-untrained-pretransform",
        action="store_true",
        help="accept a learned pretransform with random weights",
    )
    add_lenient(parser)
    add_device(parser)
    parser.add_argument(
        "--chunk-above",
        type=at_least(0),
        help="process clips of more latent frames in overlapping chunks; 0 = never (2048)",
    )


def chunking(args: argparse.Namespace) -> dict[str, Any]:
    """The keyword of `--chunk-above`; empty if it is not given."""
    return {name: value or None for name, value in given(args, "chunk_above").items()}


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose sound files and how they are cut."""
    parser.add_argument("source", metavar="SOURCE", help="folder of sound files, or a dataset file (.json)")
    parser.add_argument(
        "--sample-size",
        type=at_least(1),
        help="cut files into crops of this many samples; default: whole files",
    )


def codec_from(args: argparse.Namespace, device: Any = None) -> Any:
    """Load the Codec that the arguments name, onto `device` if given, else onto that of `--device`."""
    from stable_audio.inference.codec.load import load_codec
    from stable_audio.inference.devices import best_device

    return load_codec(
        model_config=args.model_config,
        ckpt_path=args.ckpt_path,
        device=device or best_device(args.device),
        allow_untrained=args.allow_untrained_pretransform,
        lenient=args.lenient,
    )


def parts_from(args: argparse.Namespace, codec: Any) -> Any:
    """The pieces of SOURCE, at the sample rate and channel count of the codec."""
    from stable_audio.inference.codec.sources import sound_parts

    return sound_parts(args.source, codec, crop=args.sample_size)
