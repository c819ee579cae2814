"""`stable-audio encode`: encode sound files into latents on disk, so that training need not."""

from __future__ import annotations

import argparse
import functools
import logging
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from stable_audio.audio.writable import require_folder
from stable_audio.cli.codec_options import add_codec_arguments, add_source_arguments, chunking
from stable_audio.cli.fields import given
from stable_audio.cli.importing import importing
from stable_audio.cli.numbers import at_least
from stable_audio.cli.options import add_dtype, add_out

if TYPE_CHECKING:
    from stable_audio.inference.codec.sharing import EncodeJob

log = logging.getLogger(__name__)

HELP = "encode a folder or dataset of sound files into latents on disk; may be interrupted and resumed"
SPLITS_WORK = True

MOST_WORKERS = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_source_arguments(parser)
    add_out(parser, required=True, help="folder for the latents")
    add_codec_arguments(parser)
    parser.add_argument("--batch-size", type=at_least(1), help="crops encoded together (1)")
    parser.add_argument(
        "--num-workers",
        type=at_least(0),
        help=f"processes that read sound files, 0 = none (one per core, at most {MOST_WORKERS})",
    )
    parser.add_argument(
        "--devices",
        type=at_least(1),
        help="processes, one per device (default: as many as the launcher started, else 1)",
    )
    parser.add_argument("--items-per-shard", type=at_least(1), help="clips per file (256)")
    add_dtype(parser, choices=("float32", "float16"), help="type of the stored latents (float32)")
    parser.add_argument(
        "--half", dest="dtype", action="store_const", const="float16", help="earlier name of --dtype float16"
    )
    parser.add_argument("--seed", type=int, help="seed of a variational autoencoder's noise (0)")


def run(args: argparse.Namespace) -> int:
    with importing():
        from stable_audio.data.world import launched_world, refuse_other
        from stable_audio.inference.codec.sharing import run_processes
        from stable_audio.inference.devices import best_device

    require_folder(args.out)
    world, job = launched_world(), _job(args)
    if world.launcher:
        refuse_other(world, devices=args.devices)
    elif (args.devices or 1) > 1:
        log.info("%d processes on this machine", args.devices)
        return run_processes(functools.partial(_one_of_many, args), args.devices) or _report(job.finish())
    if world.size > 1:
        log.info("%s", world)
    device = best_device(args.device, rank=world.local_rank)
    return _report(
        job.encode(device, rank=world.rank, world_size=world.size, progress=_progress_of(world.rank))
    )


def _one_of_many(args: argparse.Namespace, rank: int) -> None:
    from stable_audio.cli import guarded
    from stable_audio.inference.devices import best_device

    def share() -> int:
        device = best_device(args.device, rank=rank)
        _job(args).encode(device, rank=rank, world_size=args.devices, progress=_progress_of(rank))
        return 0

    if status := guarded(share, traceback=args.traceback):
        sys.exit(status)


def _job(args: argparse.Namespace) -> EncodeJob:
    from stable_audio.data.cores import cores_for_process
    from stable_audio.inference.codec.latents import EncodeOptions
    from stable_audio.inference.codec.sharing import EncodeJob

    workers = min(MOST_WORKERS, cores_for_process()) if args.num_workers is None else args.num_workers
    return EncodeJob(
        source=args.source,
        folder=args.out,
        model_config=args.model_config,
        ckpt_path=args.ckpt_path,
        allow_untrained=args.allow_untrained_pretransform,
        lenient=args.lenient,
        crop=args.sample_size,
        options=EncodeOptions(
            **given(args, "batch_size", "items_per_shard", "seed"),
            num_workers=workers,
            **chunking(args),
            half=args.dtype == "float16",
        ),
    )


def _progress_of(rank: int) -> Callable[[int, int], None] | None:
    return _progress if rank == 0 and sys.stderr.isatty() else None


def _progress(count: int, total: int) -> None:
    print(f"\r{count} of {total}", end="" if count < total else "\n", file=sys.stderr, flush=True)


def _report(manifest: dict[str, Any]) -> int:
    statistics = manifest["latents"]
    print(f"{manifest['items']} clips, {manifest['hours']:.3f} hours, {manifest['frames']} latent frames")
    if statistics:
        print(f"latents: mean {statistics['mean']:.4f}, standard deviation {statistics['std']:.4f}")
    for path, reason in manifest["rejected"]:
        print(f"left out: {path}: {reason}")
    if not manifest["complete"]:
        print("not complete yet: other processes are still at work; if none is, start the command again")
    return 0 if manifest["items"] else 1
