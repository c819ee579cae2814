"""`stable-audio finetune`: from a checkpoint and a folder of sounds to a fine-tuned model."""

from __future__ import annotations

import argparse
import functools
from typing import Any

from stable_audio.audio.writable import require_folder
from stable_audio.cli.fields import given
from stable_audio.cli.importing import importing
from stable_audio.cli.options import OR_PARTS_OR_HUB, add_device, add_out
from stable_audio.training.processes.stopping import StopRequest

HELP = "fine-tune a model on a folder of sounds: reads it, plans, trains, and compares before with after"

EPILOG = """
exit status: 0 trained and compared (with --dry: planned); 130 after Ctrl-C and 143 after SIGTERM, both with a
checkpoint written: the same command goes on from there; 2 it could not run, with the reason on stderr.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    add = parser.add_argument
    add(
        "--from",
        dest="checkpoint",
        required=True,
        metavar="CKPT",
        help=f"weights of the model: a file, or the folder of a run or of a published model{OR_PARTS_OR_HUB}",
    )
    add(
        "--data",
        required=True,
        metavar="FOLDER",
        help="folder of sounds, with captions beside them or as names",
    )
    add_out(parser, help="folder of the run (runs/finetune)")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument(
        "--adapter",
        metavar="TYPE",
        help="lora, dora-rows, dora-cols, bora, or one of these with -xs, which has fewer values (lora)",
    )
    kind.add_argument("--full", action="store_true", help="train the model itself instead of an adapter")
    add("--dry", action="store_true", help="plan without training; what it encoded stays in the cache")
    add("--overwrite", action="store_true", help="replace an earlier fine-tune in this folder")
    _data_arguments(parser.add_argument_group("the sounds"))
    _training_arguments(parser.add_argument_group("training (defaults follow from the sounds and the model)"))
    _comparison_arguments(parser.add_argument_group("the comparison at the end"))
    _hardware_arguments(parser.add_argument_group("hardware"))


def _data_arguments(group: Any) -> None:
    group.add_argument(
        "--caption",
        metavar="TEXT",
        help="for sounds without a caption: a template with {name}, {folder}, or one text for all ({name})",
    )
    group.add_argument(
        "--seconds",
        type=float,
        help="length of the clips that are trained on; shorter needs less memory (the model's)",
    )
    group.add_argument(
        "--keep",
        metavar="FILE.jsonl",
        help="prompts whose sounds are not to change: it renders them first and is trained on these, too",
    )
    group.add_argument("--keep-clips", type=int, help="sounds that it renders of them (96)")
    group.add_argument(
        "--cache", metavar="FOLDER", help="for latents and features of texts (cache, beside --out)"
    )


def _training_arguments(group: Any) -> None:
    group.add_argument("--rank", type=int, help="rank of the adapter (16, of large collections 32)")
    group.add_argument(
        "--steps", type=int, help="optimizer steps (200 passes over the sounds, 300 to 10,000 steps)"
    )
    group.add_argument(
        "--batch-size",
        type=int,
        help="clips per optimizer step, by accumulation where needed (as many as there are, up to 24)",
    )
    group.add_argument(
        "--learning-rate",
        type=float,
        help="greatest learning rate (twice that of the model, with --full half of it)",
    )
    group.add_argument("--seed", type=int, help="seed of the adapter, the order and the noise (42)")
    group.add_argument("--no-demos", dest="demos", action="store_const", const=False, help="render no demos")


def _comparison_arguments(group: Any) -> None:
    group.add_argument(
        "--prompt", dest="prompts", action="append", metavar="TEXT", help="compare this, too; may be repeated"
    )
    group.add_argument("--cfg-scale", type=float, help="guidance weight (that of the model's demos)")
    group.add_argument("--sampling-steps", type=int, help="sampling steps (those of the model's demos)")


def _hardware_arguments(group: Any) -> None:
    group.add_argument(
        "--model-config", metavar="FILE", help="model file; default: the one in the checkpoint"
    )
    add_device(group)
    group.add_argument(
        "--device-memory",
        type=float,
        metavar="GIB",
        help="memory that may be used, in GiB, as GPUs are sold (what is free)",
    )
    group.add_argument("--precision", help="auto, 32-true, bf16-mixed, 16-mixed, ... (auto)")
    group.add_argument("--num-workers", type=int, help="processes that load data (0)")


def run(args: argparse.Namespace, *, stop: StopRequest) -> int:
    with importing():
        from stable_audio.training.finetune.command import finetune, prepare
        from stable_audio.training.finetune.request import FinetuneRequest

    request = FinetuneRequest(**_settings(args, FinetuneRequest))
    require_folder(request.out)
    require_folder(request.cache, "--cache")
    say = functools.partial(print, flush=True)
    if args.dry:
        prepare(request, say)
        print("planned      nothing is trained yet; the same command without --dry trains")
        return 0
    status, page = finetune(request, say, stop=stop)
    if page is not None:
        print(f"to listen to: {page}")
    return status


def _settings(args: argparse.Namespace, request: type) -> dict[str, Any]:
    import dataclasses

    names = [f.name for f in dataclasses.fields(request) if hasattr(args, f.name)]
    settings = given(args, *names)
    if args.full:
        settings["adapter"] = None
    if args.prompts:
        settings["prompts"] = tuple(args.prompts)
    if args.device_memory is not None:
        settings["device_memory"] = 2**30 * args.device_memory
    return settings
