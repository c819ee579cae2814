"""`stable-audio decode`: turn a folder of latents into sound files."""

from __future__ import annotations

import argparse

from stable_audio.audio.writable import require_folder
from stable_audio.cli.codec_options import add_codec_arguments
from stable_audio.cli.importing import importing
from stable_audio.cli.options import add_out

HELP = "decode a folder of latents into sound files"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", metavar="FOLDER", help="output folder of encode, or one of X.npy with X.json"
    )
    add_out(parser, required=True, help="folder for the sound files")
    add_codec_arguments(parser)
    parser.add_argument("--format", help="wav, flac, mp3, ogg, ... (wav)")
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")


def run(args: argparse.Namespace) -> int:
    with importing():
        from stable_audio.audio.io import check_format
        from stable_audio.cli.codec_options import chunking, codec_from
        from stable_audio.inference.codec.decode import decode_folder

    if args.format is not None:
        check_format(args.format)
    require_folder(args.out)
    codec = codec_from(args)
    results = list(
        decode_folder(
            codec.pretransform,
            args.folder,
            args.out,
            sample_rate=codec.sample_rate,
            overwrite=args.overwrite,
            **({} if args.format is None else {"suffix": args.format}),
            **chunking(args),
        )
    )
    files = [item for item in results if item is not None]
    for item in files:
        if item.clipped:
            print(f"clipped: {item.path} (peak {item.peak:.2f})")
    print(f"{len(files)} files written to {args.out}, {len(results) - len(files)} were there already")
    return 0
