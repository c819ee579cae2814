"""`stable-audio encode`: sound files to latents on disk, once, so that training need not."""

from __future__ import annotations

import argparse
import logging
import sys
from typing import Any

from stable_audio.cli.codec_options import add_codec_arguments, add_source_arguments, at_least
from stable_audio.cli.options import add_dtype, add_out

log = logging.getLogger(__name__)

HELP = "turn a folder or dataset of sound files into latents on disk; can be stopped and started again"
SPLITS_WORK = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_source_arguments(parser)
    add_out(parser, required=True, help="folder for the latents")
    add_codec_arguments(parser)
    parser.add_argument(
        "--batch-size", type=at_least(1), default=1, help="crops encoded together (%(default)s)"
    )
    parser.add_argument(
        "--num-workers", type=at_least(0), default=4, help="processes that read sound (%(default)s)"
    )
    parser.add_argument(
        "--devices",
        type=at_least(1),
        help="processes, each with a device (default: what the launcher started, else 1)",
    )
    parser.add_argument(
        "--items-per-shard", type=at_least(1), default=256, help="clips per file (%(default)s)"
    )
    add_dtype(parser, choices=("float32", "float16"), help="type of the stored latents (float32)")
    parser.add_argument(
        "--half", dest="dtype", action="store_const", const="float16", help="earlier name of --dtype float16"
    )
    parser.add_argument("--seed", type=int, default=0, help="of a variational autoencoder's noise")


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
    """`--devices` processes; when one fails, it says why and the others keep what they have finished."""
    import torch.multiprocessing as multiprocessing

    log.info("%d processes on this machine", args.devices)
    try:
        others = multiprocessing.spawn(_one_of_many, args=(args,), nprocs=args.devices, join=False)
        _wait(others)
    except multiprocessing.ProcessExitedException as error:
        return error.exit_code if error.exit_code > 0 else 128 - error.exit_code
    return _report(_finish(args))


def _wait(others: Any) -> None:
    """Until all have ended; a signal that ends this process ends them in the same way."""
    try:
        while not others.join():
            pass
    except KeyboardInterrupt:
        for process in others.processes:
            if process.is_alive():
                process.terminate()
        for process in others.processes:
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
    from stable_audio.cli.codec_options import codec, parts
    from stable_audio.inference.codec.encode import EncodeOptions, encode_to_folder
    from stable_audio.inference.devices import best_device

    found = codec(args, best_device(args.device, rank=local_rank))
    return encode_to_folder(
        found.pretransform,
        parts(args, found),
        args.out,
        sample_rate=found.sample_rate,
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
        settings=_settings(args, found),
        progress=_progress if rank == 0 and sys.stderr.isatty() else None,
    )


def _settings(args: argparse.Namespace, found: Any) -> dict[str, Any]:
    return {"autoencoder": found.source, "crop": args.sample_size}


def _finish(args: argparse.Namespace) -> dict[str, Any]:
    """The manifest after all processes are done; each saw only what the others had written by then."""
    from stable_audio.cli.codec_options import codec, parts
    from stable_audio.data.latents import read_manifest, write_manifest

    names = [part.name for part in parts(args, codec(args, "cpu")).parts]
    derived = ("items", "frames", "hours", "latents", "rejected", "shards", "format", "version", "complete")
    settings = {k: v for k, v in read_manifest(args.out).items() if k not in derived}
    return write_manifest(args.out, settings, names)


def _progress(done: int, total: int) -> None:
    print(f"\r{done} of {total}", end="" if done < total else "\n", file=sys.stderr, flush=True)


def _report(manifest: dict[str, Any]) -> int:
    found = manifest["latents"]
    print(f"{manifest['items']} clips, {manifest['hours']:.3f} hours, {manifest['frames']} latent frames")
    if found:
        print(f"latents: mean {found['mean']:.4f}, standard deviation {found['std']:.4f}")
    for path, reason in manifest["rejected"]:
        print(f"left out: {path}: {reason}")
    if not manifest["complete"]:
        print("not complete yet: other processes are still at work, or start the command again")
    return 0 if manifest["items"] else 1
