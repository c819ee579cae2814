"""`stable-audio plan`: how much memory training or generation takes, and what fits a device."""

from __future__ import annotations

import argparse
import json
from typing import Any

from stable_audio.cli.fields import add_field, given
from stable_audio.cli.importing import importing
from stable_audio.cli.numbers import above_zero, at_least
from stable_audio.cli.options import DTYPES, add_lenient
from stable_audio.training.options import RunOptions
from stable_audio.wording import flag_of

HELP = "plan the memory of training or generation, and find what fits a device"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "config",
        metavar="MODEL",
        help="model file, checkpoint (a file, or the folder step=N.shards), or folder of a run",
    )
    parser.add_argument("dataset", metavar="DATA", nargs="?", help="dataset file")
    parser.add_argument(
        "--device-memory",
        type=above_zero,
        metavar="GIB",
        help="memory of the device in GiB, as GPUs are sold: 6, 8, 16, 24 (default: this machine's device)",
    )
    parser.add_argument("--device-type", choices=("cuda", "cpu"), default="cuda", help="(%(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_lenient(parser)
    training = parser.add_argument_group("training")
    for name, text in (
        ("batch_size", "clips per batch (default: the config's, else {default})"),
        ("precision", "as for train; auto: bf16-mixed on a GPU, 32-true on a CPU (default: {default})"),
        ("accum_batches", "batches per optimizer step (default: {default})"),
        ("strategy", "of several devices: auto, ddp, fsdp or hsdp (default: the config's, else {default})"),
        ("shard_size", "devices that share one copy of the weights, with hsdp"),
    ):
        default = getattr(RunOptions, name)
        add_field(training, RunOptions, name, default=None, help=text.format(default=default))
    training.add_argument(
        "--processes",
        type=at_least(1),
        metavar="N",
        help="devices that train together, of which one is planned (1)",
    )
    training.add_argument(
        "--choices",
        action="store_const",
        const=True,
        help="also list other choices of precision, checkpointing, optimizer and average; takes longer",
    )
    generation = parser.add_argument_group("generation")
    generation.add_argument("--generate", action="store_true", help="plan generation instead of training")
    generation.add_argument("--seconds", type=above_zero, help="length of the clips (the model's)")
    generation.add_argument(
        "--batch", dest="clips", type=at_least(1), metavar="N", help="clips rendered at once (1)"
    )
    generation.add_argument("--dtype", choices=(*DTYPES, "int4"), help="of the backbone's weights (float32)")


SETTINGS = ("batch_size", "precision", "accum_batches", "strategy", "shard_size", "processes")
OF_TRAINING = (*SETTINGS, "choices")
OF_GENERATION = {"seconds": "seconds", "clips": "batch_size", "dtype": "dtype"}
"""Arguments -> keywords of the plan of generation."""


def run(args: argparse.Namespace) -> int:
    _refuse_flags_of_the_other_plan(args)
    with importing():
        from stable_audio.training.memory_plan import command

    device = command.Device(kind=args.device_type, gib=args.device_memory)
    common: dict[str, Any] = {"device": device, "lenient": args.lenient}
    if args.generate:
        asked = {OF_GENERATION[name]: value for name, value in given(args, *OF_GENERATION).items()}
        generation = command.generation_plan(args.config, **asked, **common)
        _print(args, generation.as_dict(), command.generation_lines(generation))
        return 0
    plan = command.training_plan(args.config, args.dataset, **common, **given(args, *SETTINGS))
    report = plan.as_dict()
    lines = list(command.plan_lines(plan))
    if args.choices:
        table = command.choices_table(args.config, plan, args.dataset, lenient=args.lenient)
        report["choices"] = [each.as_dict() for _, each in table]
        lines += ["", "other choices"]
        lines += [f"  {command.readable_size(each.total):>10}  {choice.words()}" for choice, each in table]
    _print(args, report, lines)
    return 0


def _refuse_flags_of_the_other_plan(args: argparse.Namespace) -> None:
    """Raise ValueError for what would be accepted and left out of account."""
    others = OF_TRAINING if args.generate else OF_GENERATION
    flags = ", ".join("--batch" if name == "clips" else flag_of(name) for name in given(args, *others))
    if args.generate and args.dataset is not None:
        flags = ", ".join(filter(None, (f"the dataset file {args.dataset}", flags)))
    if flags and args.generate:
        raise ValueError(
            f"{flags}: of a plan of training, but --generate plans generation; leave out one or the other"
        )
    if flags:
        raise ValueError(f"{flags}: of a plan of generation; add --generate, or leave it out")


def _print(args: argparse.Namespace, report: dict[str, Any], lines: Any) -> None:
    print(json.dumps(report, indent=2) if args.json else "\n".join(lines))
