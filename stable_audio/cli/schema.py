"""`stable-audio schema`: write the JSON schemas that the shipped configs name in "$schema"."""

from __future__ import annotations

import argparse
from pathlib import Path

from stable_audio.audio.writable import require_file

HELP = "write the JSON schemas of model and dataset files"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        type=Path,
        default=Path("model_configs/schema.json"),
        metavar="FILE",
        help="schema of model files (%(default)s)",
    )
    parser.add_argument(
        "--dataset",
        type=Path,
        default=Path("dataset_configs/schema.json"),
        metavar="FILE",
        help="schema of dataset files (%(default)s)",
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is out of date")


def run(args: argparse.Namespace) -> int:
    from stable_audio.config.schema import dataset_schema, model_schema, schema_text

    schemas = {args.model: schema_text(model_schema()), args.dataset: schema_text(dataset_schema())}
    if args.check:
        return _compare(schemas)
    for flag, path in (("--model", args.model), ("--dataset", args.dataset)):
        require_file(path, flag)
    for path, text in schemas.items():
        _write(path, text)
        print(f"wrote {path}")
    return 0


def _compare(schemas: dict[Path, str]) -> int:
    old = [p for p, text in schemas.items() if not p.is_file() or p.read_text(encoding="utf-8") != text]
    for path in old:
        print(f"{path} is out of date: run `stable-audio schema`")
    return 1 if old else 0


def _write(path: Path, text: str) -> None:
    from stable_audio.audio.atomic import atomic_write

    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
