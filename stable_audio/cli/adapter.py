"""`stable-audio adapter info|merge|extract|convert`: look at adapters, and change them and models."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from stable_audio.audio.writable import require_file, require_folder
from stable_audio.cli.numbers import above_zero, at_least
from stable_audio.cli.options import OR_PARTS_OR_HUB, add_adapter, add_any_base, add_dtype
from stable_audio.wording import plural

HELP = "describe adapters, merge them into a model, extract them from two models, convert them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, (text, add, work) in _ACTIONS.items():
        action = actions.add_parser(name, help=text, description=text)
        action.add_argument(
            "--traceback", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )
        action.set_defaults(work=work)
        add(action)


def run(args: argparse.Namespace) -> int:
    status: int = args.work(args)
    return status


def _base(parser: Any, *names: str, help: str) -> None:
    parser.add_argument(*names, metavar="MODEL", help=help)
    parser.add_argument("--model-config", metavar="FILE", help="model file, if the model has none with it")


def _info_arguments(parser: Any) -> None:
    parser.add_argument("adapter", metavar="ADAPTER", help="file of an adapter, or a run's folder")
    _base(
        parser,
        "--base",
        help=f"also say whether it fits this model, and by how much it changes it{OR_PARTS_OR_HUB}",
    )
    parser.add_argument("--layers", action="store_true", help="list the layers with their norms")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _refuse_config_alone(args: argparse.Namespace) -> None:
    if args.model_config is not None and args.base is None:
        raise ValueError(
            "--model-config is the model file of --base, which is not given; give both or neither"
        )


def _info(args: argparse.Namespace) -> int:
    import json

    from stable_audio.checkpoints.adapted import describe_file
    from stable_audio.cli.adapter_report import report_lines

    _refuse_config_alone(args)
    values = describe_file(args.adapter, base=args.base, config=args.model_config)
    print(json.dumps(values, indent=2) if args.json else "\n".join(report_lines(values, args.layers)))
    fits = values["model"]["fits"] if "model" in values else True
    return 0 if fits else 1


def _merge_arguments(parser: Any) -> None:
    _base(parser, "base", help=f"model file, or a run's folder{OR_PARTS_OR_HUB}")
    parser.add_argument("output", metavar="OUTPUT", help="file to write, .safetensors or .ckpt")
    add_adapter(parser, help="adapter to merge, in the order given; may be repeated")
    parser.add_argument(
        "--weighted",
        action="store_true",
        help="add what each adapter does alone, STRENGTH times, as Stable Audio 3 merges several",
    )
    add_any_base(parser)
    parser.add_argument(
        "--layout", choices=["ours", "sat"], default="ours", help="key names of the file (%(default)s)"
    )
    add_dtype(parser, help="convert the weights to this type; default: as they are")


def _merge(args: argparse.Namespace) -> int:
    import torch

    from stable_audio.adapters.spec import specs_of
    from stable_audio.checkpoints.adapted import merge_files

    require_file(args.output, "OUTPUT", args.base)
    path = merge_files(
        args.base,
        specs_of(args.adapter or []),
        args.output,
        config=args.model_config,
        layout=args.layout,
        dtype=getattr(torch, args.dtype) if args.dtype else None,
        weighted=args.weighted,
        any_base=args.any_base,
    )
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, {plural(len(args.adapter), 'adapter')} merged")
    return 0


def _extract_arguments(parser: Any) -> None:
    _base(parser, "base", help=f"model file, or a run's folder{OR_PARTS_OR_HUB}")
    parser.add_argument("tuned", metavar="TUNED", help="the same of the model after its training")
    parser.add_argument("output", metavar="OUTPUT", help="adapter to write, .safetensors or .ckpt")
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument("--rank", type=at_least(1), help="rank of the adapter; this or --energy")
    size.add_argument(
        "--energy",
        type=above_zero,
        help="the smallest rank with which it has this share, up to 1, of all squared differences",
    )
    for flag, text in (("--include", "to look at (all)"), ("--exclude", "to leave out")):
        parser.add_argument(flag, action="append", metavar="PART", help=f"part of the names of layers {text}")
    parser.add_argument("--layers", action="store_true", help="list the error of every layer")


def _extract(args: argparse.Namespace) -> int:
    from stable_audio.checkpoints.adapted import extract_files
    from stable_audio.cli.adapter_report import extraction_lines

    require_file(args.output, "OUTPUT", args.base, args.tuned)
    result = extract_files(
        args.base,
        args.tuned,
        args.output,
        config=args.model_config,
        rank=args.rank,
        energy=args.energy,
        include=args.include,
        exclude=args.exclude,
    )
    print("\n".join(extraction_lines(args.output, result, args.layers)))
    return 0


def _convert_arguments(parser: Any) -> None:
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="adapter: a file, a run's folder, a folder of PEFT, or a file of diffusers",
    )
    parser.add_argument(
        "output",
        metavar="OUTPUT",
        help="file to write, .safetensors (float16) or .ckpt (float32); for PEFT a folder",
    )
    parser.add_argument(
        "--type", metavar="TYPE", help="type of the new adapter; a wrong one lists them (its own)"
    )
    _base(
        parser,
        "--base",
        help="the model of the adapter; needed for another type and for the layouts of PEFT and diffusers"
        f"{OR_PARTS_OR_HUB}",
    )
    parser.add_argument(
        "--layout",
        choices=["ours", "peft", "diffusers"],
        default="ours",
        help="layout to write (%(default)s)",
    )
    parser.add_argument(
        "--root",
        choices=["backbone", "model"],
        help="module that PEFT is to wrap (backbone)",
    )
    add_any_base(parser)


def _convert(args: argparse.Namespace) -> int:
    from stable_audio.checkpoints.adapted import convert_adapter

    _refuse_config_alone(args)
    if args.root is not None and args.layout != "peft":
        raise ValueError(f"--root is the module that PEFT wraps, and --layout is {args.layout}; leave it out")
    if args.layout == "peft":
        require_folder(args.output, "OUTPUT")
    else:
        require_file(args.output, "OUTPUT", args.source, args.base)
    result = convert_adapter(
        args.source,
        args.output,
        adapter_type=args.type,
        base=args.base,
        config=args.model_config,
        layout=args.layout,
        root=args.root or "backbone",
        any_base=args.any_base,
    )
    settings = result.adapter.settings
    same = "at every strength" if result.every_strength else "at strength 1, not at others"
    print(f"{result.path}: {settings.adapter_type} of rank {settings.rank}, the same {same}")
    return 0


_ACTIONS: dict[str, tuple[str, Callable[[Any], None], Callable[[argparse.Namespace], int]]] = {
    "info": ("say what an adapter is, and whether it fits a model", _info_arguments, _info),
    "merge": ("write one file with a model and adapters merged into it", _merge_arguments, _merge),
    "extract": ("write what two checkpoints differ by as an adapter", _extract_arguments, _extract),
    "convert": ("write an adapter in another type or layout", _convert_arguments, _convert),
}
"""Action -> its help, what adds its arguments, and its work."""
