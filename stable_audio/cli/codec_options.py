"""Options shared by the commands that turn audio into latents and back."""

from __future__ import annotations

import argparse
import os
from typing import Any


def add_codec_arguments(parser: argparse.ArgumentParser) -> None:
    """Which pretransform, and where it runs."""
    parser.add_argument("--model-config", help="of an autoencoder, or of a model with a pretransform")
    parser.add_argument("--ckpt-path", help="its weights: an autoencoder or a whole model")
    parser.add_argument(
        "--allow-untrained-pretransform",
        action="store_true",
        help="accept a learned pretransform with random weights",
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps; auto: the best there is")
    parser.add_argument(
        "--chunk-above",
        type=int,
        default=2048,
        help="longer clips (in latent frames) go in overlapping chunks; 0: never (%(default)s)",
    )


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Which sound, and in which pieces."""
    parser.add_argument("source", metavar="SOURCE", help="folder of sound files, or a dataset file (.json)")
    parser.add_argument(
        "--sample-size",
        type=int,
        default=None,
        help="cut files into crops of this many samples; default: each file whole",
    )


def codec(args: argparse.Namespace, device: str | None = None) -> Any:
    """The Codec that the arguments name."""
    from stable_audio.inference.codec import load_codec

    return load_codec(
        model_config=args.model_config,
        ckpt_path=args.ckpt_path,
        device=device or best_device(args.device),
        allow_untrained=args.allow_untrained_pretransform,
    )


def best_device(asked: str) -> str:
    """`auto` -> cuda, mps or cpu."""
    import torch

    if asked != "auto":
        return asked
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def parts(args: argparse.Namespace, found: Any) -> Any:
    """The pieces of SOURCE, at the codec's rate and channels, without augmentation."""
    from stable_audio.config import load_dataset_config
    from stable_audio.config.dataset import as_dict
    from stable_audio.data import create_dataset
    from stable_audio.data.audio_dir import AudioDirDataset
    from stable_audio.data.parts import DatasetParts, FileParts

    config: dict[str, Any] = {"dataset_type": "audio_dir", "datasets": [{"id": "audio", "path": args.source}]}
    if not os.path.isdir(args.source):
        config = as_dict(load_dataset_config(args.source))
    ratio = found.pretransform.downsampling_ratio
    dataset = create_dataset(
        config,
        sample_rate=found.sample_rate,
        sample_size=args.sample_size or found.sample_size,
        audio_channels=found.pretransform.io_channels,
        augment=False,
        downsampling_ratio=ratio,
    )
    if isinstance(dataset, AudioDirDataset):
        return FileParts(dataset, crop=args.sample_size, multiple=ratio)
    return DatasetParts(dataset)
