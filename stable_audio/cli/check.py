"""`stable-audio check`: find out now what a run would find out at step 2000."""

from __future__ import annotations

import argparse
import json
from typing import Any

HELP = "validate a model file, and a dataset file, and say what they amount to"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG", help="model file")
    parser.add_argument("dataset", metavar="DATASET", nargs="?", help="dataset file")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--dry",
        action="store_true",
        help="build nothing but shapes and download nothing; without it one real training step, one demo, "
        "one save and one reload follow",
    )
    parser.add_argument("--lenient", action="store_true", help="unknown keys are warnings")
    parser.add_argument("--batch-size", type=int, default=4, help="for the memory estimate (%(default)s)")


def run(args: argparse.Namespace) -> int:
    from stable_audio.training.check.report import report_on

    report = report_on(
        args.config, args.dataset, dry=args.dry, lenient=args.lenient, batch_size=args.batch_size
    )
    print(json.dumps(report, indent=2) if args.json else as_text(report))
    return 0 if not report["errors"] else 1


def as_text(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = [*report["errors"], *(f"warning: {w}" for w in report["warnings"])]
    for title, section in _SECTIONS.items():
        if title in report:
            lines += ["", *section(report[title])]
    verdict = "all is well" if not report["errors"] else f"{len(report['errors'])} errors"
    return "\n".join([*lines, "", f"{', '.join(_at_fault(report))}: {verdict}"]).lstrip()


def _at_fault(report: dict[str, Any]) -> list[str]:
    """The files that the errors name; all of them where there is none, or none that names a file."""
    files = [name for name in (report["config"], report["dataset_file"]) if name is not None]
    named = [name for name in files if any(e.startswith(f"{name}: ") for e in report["errors"])]
    return named or files


def _parameters(found: dict[str, int]) -> list[str]:
    return ["parameters", *(f"  {name:<14}{count:>16,}" for name, count in found.items())]


def _shape(found: dict[str, Any]) -> list[str]:
    channels, *rows, frames = found["latents"]
    pictures = "".join(f"{r} rows x " for r in rows)
    return [
        f"latents          {channels} channels x {pictures}{frames} frames",
        f"audio            {found['audio_channels']} channels, {found['sample_size']} samples = "
        f"{found['seconds']:g} s at {found['sample_rate']} Hz; "
        f"{found['downsampling_ratio']} samples per frame",
    ]


def _slots(found: dict[str, Any]) -> list[str]:
    lines = ["slots"]
    for name, slot in found.items():
        width = "any width" if slot["width"] is None else f"width {slot['width']}"
        ids = ", ".join(f"{i} ({w if w is not None else '?'})" for i, w in slot["ids"].items()) or "not used"
        lines.append(f"  {name:<14}{width:<12} {ids}")
    return lines if found else ["slots            none"]


def _memory(found: dict[str, Any]) -> list[str]:
    parts = [f"  {name:<14}{_size(size):>12}" for name, size in found["parts"].items()]
    notes = [f"  ({note})" for note in found["assumptions"]]
    return [
        f"training memory  about {_size(found['total'])} at batch size {found['batch_size']}",
        *parts,
        *notes,
    ]


def _checkpoint(found: dict[str, int]) -> list[str]:
    resume, inference = _size(found["training"]), _size(found["inference"])
    return [f"checkpoint       {resume} to resume from, {inference} for inference"]


def _dataset(found: dict[str, Any]) -> list[str]:
    first = f"; the first has {', '.join(found['keys'])}" if found.get("keys") else ""
    ignored = ", ".join(f"{suffix} ({count})" for suffix, count in found.get("ignored", {}).items())
    told = [f"                 files that nothing reads: {ignored}"] if ignored else []
    return [f"dataset          {found['type']}, {found['items']} items{first}", *told]


def _rehearsal(found: dict[str, Any]) -> list[str]:
    return ["rehearsal", *(f"  {name:<22}{value}" for name, value in found.items())]


_SECTIONS = {
    "parameters": _parameters,
    "shape": _shape,
    "slots": _slots,
    "memory": _memory,
    "checkpoint": _checkpoint,
    "dataset": _dataset,
    "rehearsal": _rehearsal,
}


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
