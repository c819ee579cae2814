"""`stable-audio configs`: list and copy the configs that come with the package."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

HELP = "list the model and dataset files that come with the package, or copy one here"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Wherever a command takes such a file, a name from this list works, too."
    parser.add_argument("--copy", metavar="NAME", help="copy this file here, to edit it")
    parser.add_argument(
        "--out", metavar="PATH", type=Path, help="file or folder to write the copy to (this folder)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    from stable_audio.stored.shipped_configs import copy_config, described

    if args.copy is not None:
        print(f"wrote {copy_config(args.copy, args.out or Path(), overwrite=args.overwrite)}")
        return 0
    if args.out is not None or args.overwrite:
        raise ValueError("--out and --overwrite belong to --copy NAME")
    listing = described()
    if args.json:
        print(json.dumps(listing, indent=2))
        return 0
    width = max(len(name) for part in listing.values() for name in part)
    for kind, part in listing.items():
        print(f"{kind}:", *(f"  {name:<{width}}  {line}" for name, line in part.items()), "", sep="\n")
    print("`stable-audio configs --copy NAME` copies a file here; --model-config NAME uses it as it is")
    return 0
