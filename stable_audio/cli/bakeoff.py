"""`stable-audio bakeoff`: train several backbones with the same number of operations and compare them."""

from __future__ import annotations

import argparse
import math

from stable_audio.audio.writable import require_file, require_folder
from stable_audio.cli.fields import add_field
from stable_audio.cli.importing import importing
from stable_audio.cli.numbers import at_least
from stable_audio.cli.options import add_out
from stable_audio.training.options import RunOptions

HELP = "train several models on the synthetic collection, with equal numbers of operations, and compare them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("configs", metavar="CONFIG", nargs="+", help="model files of the same task")
    parser.add_argument(
        "--budget",
        type=float,
        default=10.0,
        metavar="TFLOP",
        help="10^12 floating-point operations for each backbone, forward and backward (%(default)s)",
    )
    parser.add_argument("--dry", action="store_true", help="print the number of steps and train nothing")
    parser.add_argument("--batch-size", type=at_least(1), default=32, help="items per step (%(default)s)")
    add_field(parser, RunOptions, "seed", help="seed of weights, data order and noise (%(default)s)")
    parser.add_argument(
        "--sampling-steps",
        type=at_least(1),
        default=20,
        help="sampling steps of the judged clips (%(default)s)",
    )
    parser.add_argument(
        "--cfg-scale", type=float, default=2.0, help="guidance weight of the judged clips (%(default)s)"
    )
    parser.add_argument("--repeats", type=at_least(1), default=1, help="judged clips per class (%(default)s)")
    add_out(parser, "--save-dir", default="runs/bakeoff", help="one folder per model (%(default)s)")
    add_field(parser, RunOptions, "accelerator", help="auto, cpu, gpu, mps (%(default)s)")
    add_field(parser, RunOptions, "precision", help="as for train (%(default)s)")
    parser.add_argument("--json", metavar="PATH", help="also write the results to this file")


def run(args: argparse.Namespace) -> int:
    with importing():
        from stable_audio.audio.json_files import write_json
        from stable_audio.evaluation.bakeoff import compete, contender, table
        from stable_audio.training.bakeoff import BackboneTraining

    if not math.isfinite(args.cfg_scale):
        raise ValueError(f"--cfg-scale must be a finite number, found {args.cfg_scale}")
    if not 0 < args.budget < math.inf:
        raise ValueError(f"--budget must be a finite number above 0, found {args.budget}")
    if not args.dry:
        require_folder(args.out)
        if args.json:
            require_file(args.json, "--json")
    contenders = [contender(path) for path in args.configs]
    budget = args.budget * 1e12
    for entry in contenders:
        print(
            f"{entry.name}: {entry.backbone}, {entry.parameters:,} parameters, "
            f"{entry.forward_flops / 1e9:.3f} GFLOP per call, {entry.step_flops / 1e9:.3f} per trained item, "
            f"{entry.steps(budget, args.batch_size)} steps of {args.batch_size}"
        )
    if args.dry:
        return 0
    results = compete(
        contenders,
        BackboneTraining(
            args.out,
            batch_size=args.batch_size,
            seed=args.seed,
            precision=args.precision,
            accelerator=args.accelerator,
        ),
        budget=budget,
        batch_size=args.batch_size,
        repeats=args.repeats,
        sampling={"steps": args.sampling_steps, "cfg_scale": args.cfg_scale},
        report=print,
    )
    print(table(results))
    if args.json:
        write_json(args.json, [r.as_dict() for r in results])
    return 0
