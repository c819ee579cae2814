"""Options shared by the commands that turn audio into latents and back."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from stable_audio.cli.options import add_device


def at_least(least: int) -> Callable[[str], int]:
    """A converter for argparse: a whole number of at least `least`."""

    def convert(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least:
            raise argparse.ArgumentTypeError(f"a whole number of at least {least}, found '{text}'")
        return number

    return convert


def add_codec_arguments(parser: argparse.ArgumentParser) -> None:
    """Which pretransform, and where it runs."""
    parser.add_argument("--model-config", help="of an autoencoder, or of a model with a pretransform")
    parser.add_argument("--ckpt-path", help="its weights: an autoencoder or a whole model")
    parser.add_argument(
        "--allow-untrained-pretransform",
        action="store_true",
        help="accept a learned pretransform with random weights",
    )
    add_device(parser)
    parser.add_argument(
        "--chunk-above",
        type=at_least(0),
        default=2048,
        help="longer clips (in latent frames) go in overlapping chunks; 0: never (%(default)s)",
    )


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Which sound, and in which pieces."""
    parser.add_argument("source", metavar="SOURCE", help="folder of sound files, or a dataset file (.json)")
    parser.add_argument(
        "--sample-size",
        type=at_least(1),
        default=None,
        help="cut files into crops of this many samples; default: each file whole",
    )


def codec(args: argparse.Namespace, device: Any = None) -> Any:
    """The Codec that the arguments name; `device` instead of theirs."""
    from stable_audio.inference.codec.load import load_codec
    from stable_audio.inference.devices import best_device

    return load_codec(
        model_config=args.model_config,
        ckpt_path=args.ckpt_path,
        device=device or best_device(args.device),
        allow_untrained=args.allow_untrained_pretransform,
    )


def parts(args: argparse.Namespace, found: Any) -> Any:
    """The pieces of SOURCE for the codec."""
    from stable_audio.inference.codec.sources import sound_parts

    return sound_parts(args.source, found, crop=args.sample_size)
