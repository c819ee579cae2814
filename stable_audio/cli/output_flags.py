"""Flags of `stable-audio generate` for its files."""

from __future__ import annotations

from typing import Any

from stable_audio.cli.options import add_out

FORMATS = ("wav", "flac", "mp3", "ogg", "opus", "aiff", "m4a")


def output_arguments(group: Any) -> None:
    """What the files are called, how they are written, and what happens to their sound before."""
    add_out(group, default="renders", help="folder for the clips (%(default)s)")
    group.add_argument(
        "--name",
        metavar="TEMPLATE",
        help="names of the files, for example {prompt}_{seed}_{cfg_scale} ({index}_{name}_{digest})",
    )
    group.add_argument("--format", choices=FORMATS, help="file format (wav)")
    group.add_argument("--subtype", help="sample format: 16, 24, float, PCM_S8, ... (16 bits)")
    group.add_argument(
        "--trim-silence",
        type=float,
        metavar="DB",
        help="remove what is below this level at both ends, for example -60 (off)",
    )
    group.add_argument(
        "--loudness", type=float, metavar="LUFS", help="bring clips to this loudness, for example -16 (off)"
    )
    group.add_argument(
        "--true-peak",
        type=float,
        metavar="DBTP",
        help="turn clips down until their true peak is at most this, for example -1 (off)",
    )
    group.add_argument(
        "--batch-size",
        type=int,
        help="clips per batch; does not change them (8 to 64 on a GPU, else 1)",
    )
    group.add_argument(
        "--chunked-decode",
        action="store_true",
        help="decode in overlapping chunks, so that memory does not grow with length",
    )
    group.add_argument(
        "--page",
        action="store_true",
        help="write a page, too, that plays, filters and compares the clips",
    )
    group.add_argument("--overwrite", action="store_true", help="render clips again that already exist")
