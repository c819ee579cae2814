"""`stable-audio reconstruct`: measure what an autoencoder loses."""

from __future__ import annotations

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import Any

from stable_audio.cli.codec_options import add_codec_arguments, add_source_arguments
from stable_audio.cli.options import add_out

FIGURES = ("si_sdr", "stft_distance", "mel_distance")
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
    from stable_audio.audio.atomic import atomic_write
    from stable_audio.cli.codec_options import codec_from, parts_from
    from stable_audio.evaluation.reconstruction import reconstruct

    codec = codec_from(args)
    rows = list(
        reconstruct(
            codec.pretransform,
            parts_from(args, codec),
            sample_rate=codec.sample_rate,
            chunk_above=args.chunk_above or None,
            sampled=args.sampled,
            quantizers=args.quantizers,
            out=args.out,
        )
    )
    report = {"pretransform": codec.source, **summary(rows), "items": rows}
    text = json.dumps({**report, "items": [_jsonable(row) for row in rows]}, indent=2, ensure_ascii=False)
    if args.out:
        with atomic_write(Path(args.out) / "figures.json") as temporary:
            temporary.write_text(text, encoding="utf-8")
    print(text if args.json else as_text(report))
    return 0 if report["measured"] else 1


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts, and the mean of each figure where it is finite."""
    measured = [row for row in rows if "rejected" not in row]
    means: dict[str, Any] = {}
    for name in FIGURES:
        finite = [row[name] for row in measured if math.isfinite(row[name])]
        means[name] = statistics.fmean(finite) if finite else None
    return {"measured": len(measured), "rejected": len(rows) - len(measured), **means}


def _jsonable(row: dict[str, Any]) -> dict[str, Any]:
    """The row with None for what is not finite, which JSON cannot hold: the SI-SDR of a perfect copy."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}


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
    sdr, stft, mel = (figures[f] if figures[f] is not None else math.nan for f in FIGURES)
    return f"{sdr:9.2f}   {stft:13.3f}   {mel:12.3f}   {name}"
