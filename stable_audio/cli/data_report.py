"""`stable-audio data-report`: what a dataset file amounts to, and which of its files cannot be used."""

from __future__ import annotations

import argparse
import json
from typing import Any

HELP = "scan a dataset: counts, hours, rates, captions, and what is left out, by name"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", metavar="DATASET", help="dataset file")
    parser.add_argument("--headers", action="store_true", help="read headers only: faster, finds less")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--num-workers", type=int, default=4, help="files looked at at a time (%(default)s)")
    parser.add_argument("--sample-rate", type=int, default=44100, help="Hz; matters for crops only")
    parser.add_argument("--sample-size", type=int, default=65536, help="samples of a clip")
    parser.add_argument("--channels", type=int, default=2, help="audio channels of the model (%(default)s)")


def run(args: argparse.Namespace) -> int:
    from stable_audio.config import load_dataset_config
    from stable_audio.config.dataset import as_dict
    from stable_audio.data import create_dataset
    from stable_audio.data.inspection import inspect_dataset

    config = as_dict(load_dataset_config(args.dataset))
    dataset = create_dataset(
        config,
        sample_size=args.sample_size,
        audio_channels=args.channels,
        augment=False,
        **{"sample_rate": args.sample_rate, **_of_latents(config)},
    )
    found = inspect_dataset(dataset, thorough=not args.headers, num_threads=args.num_workers)
    print(json.dumps(found, indent=2, ensure_ascii=False) if args.json else as_text(found))
    return 0 if not found["rejected"] else 1


def _of_latents(config: dict[str, Any]) -> dict[str, int]:
    """Rate and frame length of the first folder of latents that says what made it."""
    import os

    from stable_audio.data.latents import MANIFEST, read_manifest

    if config["dataset_type"] != "pre_encoded":
        return {}
    paths = [entry["path"] for entry in config["datasets"]]
    path = next((p for p in paths if os.path.isfile(os.path.join(p, MANIFEST))), None)
    if path is None:
        return {}
    manifest = read_manifest(path)
    return {key: manifest[key] for key in ("sample_rate", "downsampling_ratio")}


def as_text(found: dict[str, Any]) -> str:
    """The report for people; every rejected file is named."""
    lines = [f"{found['usable']} of {found['files']} items can be used, {found['hours']:.2f} hours"]
    if found["seconds"]:
        lines.append("length in seconds: " + ", ".join(f"{k} {v:.2f}" for k, v in found["seconds"].items()))
    lines.append(f"with a caption: {100 * found['captions']:.1f}%")
    for name in ("datasets", "sample_rates", "channels", "formats"):
        lines.append(f"{name.replace('_', ' ')}: " + ", ".join(f"{k} ({v})" for k, v in found[name].items()))
    for reason, paths in found["rejected"].items():
        lines += [f"left out, {len(paths)}: {reason}", *(f"  {path}" for path in paths)]
    return "\n".join(lines)
