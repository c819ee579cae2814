"""`stable-audio check`: find the mistakes of a run before it starts."""

from __future__ import annotations

import argparse
import json
from typing import Any

from stable_audio.cli.fields import add_field
from stable_audio.cli.importing import importing
from stable_audio.cli.numbers import at_least
from stable_audio.training.options import RunOptions
from stable_audio.wording import plural

HELP = "validate a model file and a dataset file, report sizes and memory, and rehearse a training step"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG", help="model file")
    parser.add_argument("dataset", metavar="DATASET", nargs="?", help="dataset file")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--dry",
        action="store_true",
        help="compute shapes only, build no weights and download nothing; without it, one real training "
        "step, one demo, one save and one reload follow",
    )
    parser.add_argument("--lenient", action="store_true", help="report unknown keys as warnings")
    add_field(
        parser,
        RunOptions,
        "batch_size",
        type=at_least(1),
        help="items per step for the memory estimate (%(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    with importing():
        from stable_audio.training.check.report import report_on

    report = report_on(
        args.config, args.dataset, dry=args.dry, lenient=args.lenient, batch_size=args.batch_size
    )
    print(json.dumps(report, indent=2) if args.json else as_text(report))
    return 0 if not report["errors"] else 1


def as_text(report: dict[str, Any]) -> str:
    """The report as lines of text."""
    lines = [*report["errors"], *(f"warning: {w}" for w in report["warnings"])]
    for title, section in _SECTIONS.items():
        if title in report:
            lines += ["", *section(report[title])]
    verdict = "all is well" if not report["errors"] else plural(len(report["errors"]), "error")
    return "\n".join([*lines, "", f"{', '.join(_at_fault(report))}: {verdict}"]).lstrip()


def _at_fault(report: dict[str, Any]) -> list[str]:
    """The files with errors; all files if there are no errors, or errors that name no file."""
    files = [name for name in (report["config"], report["dataset_file"]) if name is not None]
    faulty = [name for name in files if any(e.startswith(f"{name}: ") for e in report["errors"])]
    return faulty or files


def _parameters(counts: dict[str, int]) -> list[str]:
    return ["parameters", *(f"  {name:<14}{count:>16,}" for name, count in counts.items())]


def _shape(shape: dict[str, Any]) -> list[str]:
    channels, *rows, frames = shape["latents"]
    row_counts = "".join(f"{r} rows x " for r in rows)
    return [
        f"latents          {channels} channels x {row_counts}{frames} frames",
        f"audio            {shape['audio_channels']} channels, {shape['sample_size']} samples = "
        f"{shape['seconds']:g} s at {shape['sample_rate']} Hz; "
        f"{shape['downsampling_ratio']} samples per frame",
    ]


def _slots(slots: dict[str, Any]) -> list[str]:
    lines = ["slots"]
    for name, slot in slots.items():
        width = "any width" if slot["width"] is None else f"width {slot['width']}"
        ids = ", ".join(f"{i} ({w if w is not None else '?'})" for i, w in slot["ids"].items()) or "not used"
        lines.append(f"  {name:<14}{width:<12} {ids}")
    return lines if slots else ["slots            none"]


def _memory(memory: dict[str, Any]) -> list[str]:
    parts = [f"  {name:<14}{_size(size):>12}" for name, size in memory["parts"].items()]
    notes = [f"  ({note})" for note in memory["assumptions"]]
    return [
        f"training memory  about {_size(memory['total'])} at batch size {memory['batch_size']}",
        *parts,
        *notes,
    ]


def _checkpoint(sizes: dict[str, int]) -> list[str]:
    resume, inference = _size(sizes["training"]), _size(sizes["inference"])
    return [f"checkpoint       {resume} to resume from, {inference} for inference"]


def _dataset(dataset: dict[str, Any]) -> list[str]:
    first = f"; the first has {', '.join(dataset['keys'])}" if dataset.get("keys") else ""
    ignored = ", ".join(f"{suffix} ({count})" for suffix, count in dataset.get("ignored", {}).items())
    ignored_lines = [f"                 files that are not read: {ignored}"] if ignored else []
    return [f"dataset          {dataset['type']}, {dataset['items']} items{first}", *ignored_lines]


def _rehearsal(results: dict[str, Any]) -> list[str]:
    return ["rehearsal", *(f"  {name:<22}{value}" for name, value in results.items())]


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
