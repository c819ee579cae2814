"""`stable-audio encode`: encode sound files into latents on disk, so that training need not."""

from __future__ import annotations

import argparse
import logging
import sys
from typing import Any

from stable_audio.cli.codec_options import add_codec_arguments, add_source_arguments, at_least
from stable_audio.cli.options import add_dtype, add_out

log = logging.getLogger(__name__)

HELP = "encode a folder or dataset of sound files into latents on disk; may be interrupted and resumed"
SPLITS_WORK = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_source_arguments(parser)
    add_out(parser, required=True, help="folder for the latents")
    add_codec_arguments(parser)
    parser.add_argument(
        "--batch-size", type=at_least(1), default=1, help="crops encoded together (%(default)s)"
    )
    parser.add_argument(
        "--num-workers", type=at_least(0), default=4, help="processes that read sound files (%(default)s)"
    )
    parser.add_argument(
        "--devices",
        type=at_least(1),
        help="processes, one per device (default: as many as the launcher started, else 1)",
    )
    parser.add_argument(
        "--items-per-shard", type=at_least(1), default=256, help="clips per file (%(default)s)"
    )
    add_dtype(parser, choices=("float32", "float16"), help="type of the stored latents (float32)")
    parser.add_argument(
        "--half", dest="dtype", action="store_const", const="float16", help="earlier name of --dtype float16"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of a variational autoencoder's noise")


def run(args: argparse.Namespace) -> int:
    from stable_audio.data.world import launched_world, refuse_other

    world = launched_world()
    if world.launcher:
        refuse_other(world, devices=args.devices)
    elif (args.devices or 1) > 1:
        return _by_many(args)
    if world.size > 1:
        log.info("%s", world)
    return _report(_encode(args, world.rank, world.size, world.local_rank))


def _by_many(args: argparse.Namespace) -> int:
    """Encode in `--devices` processes; if one fails, it prints why, and what all have finished stays."""
    import torch.multiprocessing as multiprocessing

    log.info("%d processes on this machine", args.devices)
    try:
        processes = multiprocessing.spawn(_one_of_many, args=(args,), nprocs=args.devices, join=False)
        _wait(processes)
    except multiprocessing.ProcessExitedException as error:
        return error.exit_code if error.exit_code > 0 else 128 - error.exit_code
    return _report(_finish(args))


def _wait(context: Any) -> None:
    """Wait until all processes have ended; an interruption of this process ends them, too."""
    try:
        while not context.join():
            pass
    except KeyboardInterrupt:
        for process in context.processes:
            if process.is_alive():
                process.terminate()
        for process in context.processes:
            process.join()
        raise


def _one_of_many(rank: int, args: argparse.Namespace) -> None:
    from stable_audio.cli import guarded

    def share() -> int:
        _encode(args, rank, args.devices, rank)
        return 0

    if status := guarded(share, traceback=args.traceback):
        sys.exit(status)


def _encode(args: argparse.Namespace, rank: int, world_size: int, local_rank: int) -> dict[str, Any]:
    from stable_audio.cli.codec_options import codec_from, parts_from
    from stable_audio.inference.codec.encode import EncodeOptions, encode_to_folder
    from stable_audio.inference.devices import best_device

    codec = codec_from(args, best_device(args.device, rank=local_rank))
    return encode_to_folder(
        codec.pretransform,
        parts_from(args, codec),
        args.out,
        sample_rate=codec.sample_rate,
        options=EncodeOptions(
            batch_size=args.batch_size,
            num_workers=args.num_workers,
            items_per_shard=args.items_per_shard,
            chunk_above=args.chunk_above or None,
            half=args.dtype == "float16",
            seed=args.seed,
            rank=rank,
            world_size=world_size,
        ),
        settings=_settings(args, codec),
        progress=_progress if rank == 0 and sys.stderr.isatty() else None,
    )


def _settings(args: argparse.Namespace, codec: Any) -> dict[str, Any]:
    return {"autoencoder": codec.source, "crop": args.sample_size}


def _finish(args: argparse.Namespace) -> dict[str, Any]:
    """Write and return the manifest once all processes have ended.

    Each process counted only what the others had written by the time that it ended itself.
    """
    from stable_audio.cli.codec_options import codec_from, parts_from
    from stable_audio.data.latents import read_manifest, write_manifest

    names = [part.name for part in parts_from(args, codec_from(args, "cpu")).parts]
    derived = ("items", "frames", "hours", "latents", "rejected", "shards", "format", "version", "complete")
    settings = {k: v for k, v in read_manifest(args.out).items() if k not in derived}
    return write_manifest(args.out, settings, names)


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
