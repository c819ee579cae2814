"""`stable-audio data-report`: statistics of a dataset, and which of its files cannot be used."""

from __future__ import annotations

import argparse
from typing import Any

from stable_audio.characters import readable_json
from stable_audio.cli.fields import given
from stable_audio.cli.importing import importing
from stable_audio.cli.numbers import at_least

HELP = "scan a dataset: counts, hours, rates, captions, and the names of files that are left out"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", metavar="DATASET", help="dataset file")
    parser.add_argument("--headers", action="store_true", help="read file headers only: faster, finds less")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--num-workers", dest="num_threads", type=at_least(1), help="files read in parallel (4)"
    )
    parser.add_argument(
        "--model-config",
        metavar="CONFIG",
        help="model file: also list items whose metadata its conditioners cannot use; says what the three "
        "options below are, where they are left out",
    )
    parser.add_argument(
        "--sample-rate",
        type=at_least(1),
        help="sample rate in Hz; matters only where files are cropped (44100)",
    )
    parser.add_argument("--sample-size", type=at_least(1), help="length of a clip in samples (65536)")
    parser.add_argument(
        "--channels", dest="audio_channels", type=at_least(1), help="audio channels of the model (2)"
    )


def run(args: argparse.Namespace) -> int:
    with importing():
        from stable_audio.factory.dataset_report import report_on_dataset

    report = report_on_dataset(
        args.dataset,
        args.model_config,
        thorough=not args.headers,
        **given(args, "num_threads", "sample_rate", "sample_size", "audio_channels"),
    )
    print(readable_json(report, indent=2) if args.json else as_text(report))
    return 0 if not report["rejected"] else 1


def as_text(report: dict[str, Any]) -> str:
    """The report as lines of text, which name every rejected file."""
    from stable_audio.data.report import printable

    lines = [f"{report['usable']} of {report['files']} items can be used, {report['hours']:.2f} hours"]
    if report["seconds"]:
        lines.append("length in seconds: " + ", ".join(f"{k} {v:.2f}" for k, v in report["seconds"].items()))
    lines.append(f"with a caption: {100 * report['captions']:.1f}%")
    for name in ("datasets", "sample_rates", "channels", "formats", "keys"):
        counted = ", ".join(f"{printable(k)} ({v})" for k, v in report[name].items())
        lines.append(f"{name.replace('_', ' ')}: {counted or 'none'}")
    for name, title in (
        ("null", "null in the metadata"),
        ("replaced", "text that could not be read whole, with U+FFFD in place of the rest"),
        ("beyond", "beyond the model's range, clamped"),
        ("ignored", "files that are not read"),
    ):
        if report[name]:
            lines.append(f"{title}: " + ", ".join(f"{printable(k)} ({v})" for k, v in report[name].items()))
    for reason, paths in report["rejected"].items():
        lines.append(f"left out, {len(paths)}: {printable(reason)}")
        lines += [f"  {printable(path)}" for path in paths]
    return "\n".join(lines)
