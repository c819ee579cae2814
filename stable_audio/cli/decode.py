"""`stable-audio decode`: a folder of latents back to sound files."""

from __future__ import annotations

import argparse

from stable_audio.cli.codec_options import add_codec_arguments
from stable_audio.cli.options import add_out

HELP = "turn a folder of latents back into sound files"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", help="of the encode command, or X.npy with X.json")
    add_out(parser, required=True, help="folder for the sound files")
    add_codec_arguments(parser)
    parser.add_argument("--format", default="wav", help="wav, flac, mp3, ogg, ... (%(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="write files that are there already again")


def run(args: argparse.Namespace) -> int:
    from stable_audio.cli.codec_options import codec
    from stable_audio.inference.codec.decode import decode_folder

    found = codec(args)
    written = list(
        decode_folder(
            found.pretransform,
            args.folder,
            args.out,
            sample_rate=found.sample_rate,
            suffix=args.format,
            chunk_above=args.chunk_above or None,
            overwrite=args.overwrite,
        )
    )
    saved = [item for item in written if item is not None]
    for item in saved:
        if item.clipped:
            print(f"clipped: {item.path} (peak {item.peak:.2f})")
    print(f"{len(saved)} files written to {args.out}, {len(written) - len(saved)} were there already")
    return 0
