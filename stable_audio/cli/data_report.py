"""`stable-audio data-report`: statistics of a dataset, and which of its files cannot be used."""

from __future__ import annotations

import argparse
import json
from typing import Any

HELP = "scan a dataset: counts, hours, rates, captions, and the names of files that are left out"

_DEFAULTS = {"sample_rate": 44100, "sample_size": 65536, "audio_channels": 2}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", metavar="DATASET", help="dataset file")
    parser.add_argument("--headers", action="store_true", help="read file headers only: faster, finds less")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--num-workers", type=int, help="files read in parallel (4)")
    parser.add_argument(
        "--model-config",
        metavar="CONFIG",
        help="model file: also list items whose metadata its conditioners cannot use; sets the three options "
        "below",
    )
    parser.add_argument(
        "--sample-rate",
        type=int,
        help=f"sample rate in Hz; matters only where files are cropped ({_DEFAULTS['sample_rate']})",
    )
    parser.add_argument(
        "--sample-size", type=int, help=f"length of a clip in samples ({_DEFAULTS['sample_size']})"
    )
    parser.add_argument(
        "--channels", type=int, help=f"audio channels of the model ({_DEFAULTS['audio_channels']})"
    )


def run(args: argparse.Namespace) -> int:
    from stable_audio.config import load_dataset_config
    from stable_audio.data.inspection import inspect_dataset
    from stable_audio.factory import create_dataset
    from stable_audio.factory.clip_shape import stored_shape

    config = load_dataset_config(args.dataset)
    shape, check = _of_model(args.model_config) if args.model_config else ({}, None)
    overrides = {
        "sample_rate": args.sample_rate,
        "sample_size": args.sample_size,
        "audio_channels": args.channels,
    }
    overrides = {key: value for key, value in overrides.items() if value is not None}
    dataset = create_dataset(
        config, augment=False, **{**_DEFAULTS, **shape, **stored_shape(config), **overrides}
    )
    report = inspect_dataset(
        dataset,
        thorough=not args.headers,
        **({} if args.num_workers is None else {"num_threads": args.num_workers}),
        check=None if check is None else check.refusal,
        beyond=None if check is None else check.beyond,
    )
    print(json.dumps(report, indent=2, ensure_ascii=False) if args.json else as_text(report))
    return 0 if not report["rejected"] else 1


def _of_model(path: str) -> tuple[dict[str, int], Any]:
    """The clip shape of a model file, and the check of metadata by its conditioners, None without any."""
    from stable_audio.config import load_config
    from stable_audio.factory import create_model_from_config
    from stable_audio.factory.clip_shape import clip_shape

    config = load_config(path)
    model = create_model_from_config(config, device="meta")
    conditioner = getattr(model, "conditioner", None)
    return clip_shape(config, model), conditioner.value_check() if conditioner is not None else None


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
        ("beyond", "beyond the model's range, clamped"),
        ("ignored", "files that are not read"),
    ):
        if report[name]:
            lines.append(f"{title}: " + ", ".join(f"{printable(k)} ({v})" for k, v in report[name].items()))
    for reason, paths in report["rejected"].items():
        lines.append(f"left out, {len(paths)}: {printable(reason)}")
        lines += [f"  {printable(path)}" for path in paths]
    return "\n".join(lines)
