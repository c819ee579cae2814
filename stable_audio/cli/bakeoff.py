"""`stable-audio bakeoff`: several backbones, the same arithmetic, one table."""

from __future__ import annotations

import argparse
import json
from typing import Any

from stable_audio.cli.options import add_out

HELP = "train several model files on the synthetic collection with equal arithmetic and compare them"


VALIDATION = {"split": "val", "num_clips": 312}
"""Every class of the collection twice."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("configs", metavar="CONFIG", nargs="+", help="model files of the same task")
    parser.add_argument(
        "--budget",
        type=float,
        default=10.0,
        metavar="TFLOP",
        help="10^12 floating-point operations for each backbone, forward and backward (%(default)s)",
    )
    parser.add_argument("--dry", action="store_true", help="count and print the plan, train nothing")
    parser.add_argument("--batch-size", type=int, default=32, help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=42, help="of weights, data order and noise (%(default)s)")
    parser.add_argument("--sampling-steps", type=int, default=20, help="for the judged clips (%(default)s)")
    parser.add_argument("--cfg-scale", type=float, default=2.0, help="for the judged clips (%(default)s)")
    parser.add_argument("--repeats", type=int, default=1, help="clips per class (%(default)s)")
    add_out(parser, "--save-dir", default="runs/bakeoff", help="one folder per model (%(default)s)")
    parser.add_argument("--accelerator", default="auto", help="auto, cpu, gpu, mps (%(default)s)")
    parser.add_argument("--precision", default="auto", help="as for train (%(default)s)")
    parser.add_argument("--json", metavar="PATH", help="write the results here as well")


def run(args: argparse.Namespace) -> int:
    from stable_audio.evaluation.bakeoff import compete, contender, table

    if args.budget <= 0:
        raise ValueError(f"--budget must be above 0, found {args.budget}")
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
        lambda entry, steps: _train(args, entry, steps),
        budget=budget,
        batch_size=args.batch_size,
        repeats=args.repeats,
        sampling={"steps": args.sampling_steps, "cfg_scale": args.cfg_scale},
        report=print,
    )
    print(table(results))
    if args.json:
        _write(args.json, [r.as_dict() for r in results])
    return 0


def _train(args: argparse.Namespace, entry: Any, steps: int) -> Any:
    """Train one contender and load what validation saved: averaged weights, where its config has them."""
    import time

    from stable_audio.checkpoints import load_model
    from stable_audio.config import load_dataset_config
    from stable_audio.data.world import ALONE
    from stable_audio.evaluation.bakeoff import Trained
    from stable_audio.training.callbacks.validation import Validate
    from stable_audio.training.options import RunOptions
    from stable_audio.training.stopping import Interrupted
    from stable_audio.training.trainer import assemble

    options = RunOptions(
        name=entry.name,
        save_dir=args.out,
        overwrite=True,
        batch_size=args.batch_size,
        num_workers=0,
        seed=args.seed,
        max_steps=steps,
        precision=args.precision,
        checkpoint_every=0,
        val_every=steps,
        accelerator=args.accelerator,
        devices="1",
        gradient_clip_val=entry.config.training.gradient_clip_val or 0.0,
        demos=False,
        log_every=max(1, steps // 20),
    )
    data = load_dataset_config({"dataset_type": "synthetic"})
    validation = load_dataset_config({"dataset_type": "synthetic", **VALIDATION})
    started = time.perf_counter()
    run = assemble(entry.config, data, options, val_dataset=validation, world=ALONE)
    status = run.start()
    if status:
        raise Interrupted(status - 128)
    seconds = time.perf_counter() - started
    (validate,) = [c for c in run.trainer.callbacks if isinstance(c, Validate)]  # type: ignore[attr-defined]
    # The only validation is the one at the end, so its file holds the final weights.
    best = options.folder / "best.safetensors"
    if not best.is_file():
        raise ValueError(f"{entry.name}: the validation loss is not a number, so there is nothing to judge")
    model: Any = load_model(best, device=run.module.device)[0]
    return Trained(model=model, val_loss=validate.latest["val/avg_loss"], seconds=seconds)


def _write(path: str, results: list[dict[str, Any]]) -> None:
    from stable_audio.audio.atomic import atomic_write

    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(results, indent=2) + "\n")
