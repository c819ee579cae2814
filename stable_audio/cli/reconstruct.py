"""`stable-audio reconstruct`: measure what an autoencoder loses."""

from __future__ import annotations

import argparse
import math
from typing import Any

from stable_audio.audio.writable import require_folder
from stable_audio.cli.codec_options import add_codec_arguments, add_source_arguments
from stable_audio.cli.importing import importing
from stable_audio.cli.options import add_out

HELP = "compare sound files with their reconstruction by an autoencoder or another pretransform"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_source_arguments(parser)
    add_codec_arguments(parser)
    add_out(parser, help="also write the reconstructions and figures.json there")
    parser.add_argument(
        "--sampled", action="store_true", help="sample the latents instead of taking their mean"
    )
    parser.add_argument(
        "--quantizers",
        type=int,
        metavar="K",
        help="decode from the first K tokens of every frame of a quantised autoencoder: a lower bitrate",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    with importing():
        from stable_audio.cli.codec_options import chunking, codec_from, parts_from
        from stable_audio.evaluation.reconstruction import as_json, reconstruct, summary, write_report

    require_folder(args.out)
    codec = codec_from(args)
    rows = list(
        reconstruct(
            codec.pretransform,
            parts_from(args, codec),
            sample_rate=codec.sample_rate,
            sampled=args.sampled,
            quantizers=args.quantizers,
            out=args.out,
            **chunking(args),
        )
    )
    report = {"pretransform": codec.source, **summary(rows), "items": rows}
    if args.out:
        write_report(args.out, report)
    print(as_json(report) if args.json else as_text(report))
    return 0 if report["measured"] else 1


def as_text(report: dict[str, Any]) -> str:
    """One line per file, worst first, then the means."""
    measured = [row for row in report["items"] if "rejected" not in row]
    lines = ["SI-SDR dB   STFT distance   mel distance   file"]
    for row in sorted(measured, key=lambda row: row["si_sdr"]):
        lines.append(_line(row, row["part"]))
    for row in report["items"]:
        if "rejected" in row:
            lines.append(f"left out: {row['part']}: {row['rejected']}")
    if report["si_sdr"] is not None:
        lines.append(_line(report, f"mean of {len(measured)}"))
    return "\n".join(lines)


def _line(figures: dict[str, Any], name: str) -> str:
    from stable_audio.evaluation.reconstruction import FIGURES

    sdr, stft, mel = (figures[f] if figures[f] is not None else math.nan for f in FIGURES)
    return f"{sdr:9.2f}   {stft:13.3f}   {mel:12.3f}   {name}"
