"""`stable-audio serve`: answer programs over HTTP with the sounds of models."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stable_audio.audio.writable import require_folder
from stable_audio.cli.importing import importing
from stable_audio.cli.options import (
    OR_PARTS_OR_HUB,
    add_any_base,
    add_device,
    add_devices,
    add_lenient,
    add_matmul_precision,
    add_no_ema,
    add_out,
    add_render_dtype,
)

if TYPE_CHECKING:
    from stable_audio.interface.service.settings import ServiceSettings

HELP = "answer programs over HTTP with the sounds of models"

TOKEN = "STABLE_AUDIO_TOKEN"
"""Variable of the environment with a token, for a service with a single one."""

_LIMITS = (
    ("max-seconds", float, "longest clip in seconds (600)"),
    ("max-steps", int, "most sampling steps of a clip (1000)"),
    ("batch-size", int, "clips rendered at once (16 on a GPU, else 4)"),
    ("batch-wait", float, "seconds for which an idle device waits for more clips to render together (0.02)"),
    ("queue", int, "waiting jobs of all clients; more are refused with 503 (512)"),
    ("client-queue", int, "waiting jobs of one client; more are refused with 429 (half of --queue)"),
    ("deadline", float, "seconds after which a job is given up (DEADLINE)"),
    ("upload-megabytes", float, "largest upload (64)"),
    ("upload-seconds", float, "longest uploaded sound (600)"),
    ("decode-seconds", float, "time that decoding an upload may take (30)"),
)


def add_arguments(parser: argparse.ArgumentParser, *, deadline: str = "600") -> None:
    """Add the flags of a service.

    Args:
        deadline: what is told of the default of `--deadline`.
    """
    parser.add_argument(
        "checkpoints",
        nargs="+",
        metavar="CKPT",
        help="model to serve, [NAME=]PATH: a checkpoint file, or the folder of a run or a model"
        f"{OR_PARTS_OR_HUB}; the first is the default",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on; 0: any (%(default)s)")
    add_out(parser, default="served", help="folder for jobs, results and uploads (%(default)s)")
    _model_arguments(parser.add_argument_group("models"))
    _access_arguments(parser.add_argument_group("who is answered"))
    limits = parser.add_argument_group("limits")
    for name, kind, text in _LIMITS:
        limits.add_argument(f"--{name}", type=kind, metavar="N", help=text.replace("DEADLINE", deadline))
    limits.add_argument("--keep-results", type=int, metavar="N", help="finished jobs that are kept (1000)")
    limits.add_argument("--keep-uploads", type=int, metavar="N", help="uploads that are kept (1000)")
    limits.add_argument(
        "--drain-seconds", type=float, metavar="N", help="time to finish what is at work on SIGTERM (60)"
    )


def _model_arguments(group: Any) -> None:
    group.add_argument(
        "--model-config", metavar="FILE", help="model file of a single model; default: the one in it"
    )
    group.add_argument(
        "--pretransform-ckpt-path",
        metavar="FILE",
        help=f"weights of the autoencoder alone, of all models{OR_PARTS_OR_HUB}",
    )
    group.add_argument(
        "--adapter",
        action="append",
        metavar="[NAME=]FILE_OR_RUN",
        help="adapter that requests can name; may be repeated",
    )
    add_any_base(group)
    add_lenient(group)
    add_no_ema(group)
    add_device(group)
    add_devices(group)
    add_render_dtype(group)
    add_matmul_precision(group)
    group.add_argument("--compile", action="store_true", help="torch.compile the backbone")
    group.add_argument("--offload", action="store_true", help="keep the weights in host memory")
    group.add_argument("--chunked-decode", action="store_true", help="decode in overlapping chunks")
    group.add_argument("--resident", type=int, metavar="N", help="models in memory at once (all)")


def _access_arguments(group: Any) -> None:
    group.add_argument(
        "--token-file",
        metavar="FILE",
        help=f"a line for each client, [NAME ]TOKEN, which it sends as a bearer token; or one in ${TOKEN}",
    )
    group.add_argument(
        "--cors-origin",
        action="append",
        metavar="ORIGIN",
        help="site whose pages may call, for example https://example.org; may be repeated",
    )
    group.add_argument(
        "--host-name",
        action="append",
        metavar="NAME",
        help="name under which the service is called; may be repeated (on loopback localhost, else any)",
    )


def run(args: argparse.Namespace) -> int:
    with importing():
        from stable_audio.interface.service.serving import serve

    require_folder(args.out)
    settings = settings_of(args)
    warn_if_open(args, settings)
    serve(
        settings,
        host=args.host,
        port=args.port,
        started=lambda at: _say(f"listening on {at}, docs at {at}/docs"),
    )
    return 0


def warn_if_open(args: argparse.Namespace, settings: ServiceSettings) -> None:
    """Say so if others than this machine can use the service."""
    from stable_audio.interface.hosts import is_loopback

    if not is_loopback(args.host) and not settings.access.tokens:
        _say(
            f"warning: everyone who reaches {args.host}:{args.port} can use it; --token-file asks for a token"
        )


def settings_of(args: argparse.Namespace) -> ServiceSettings:
    """The settings that the arguments make.

    Raises:
        ValueError: arguments that contradict each other.
    """
    from stable_audio.cli.fields import given
    from stable_audio.inference.devices import AUTO, best_device
    from stable_audio.inference.rendering.processes import devices_named
    from stable_audio.interface.hosts import LOOPBACK, is_loopback
    from stable_audio.interface.service.names import named, read_tokens
    from stable_audio.interface.service.settings import (
        Access,
        Limits,
        ModelSource,
        ServiceSettings,
        WorkerOptions,
    )

    if args.devices is not None and args.device != AUTO:
        raise ValueError("--device and --devices both say where to render; give one of them")
    if args.model_config is not None and len(args.checkpoints) > 1:
        raise ValueError("--model-config is the model file of one model; serve the others without it")
    devices = [best_device(args.device)] if args.devices is None else devices_named(args.devices)
    own = {} if args.model_config is None else {"config": args.model_config}
    models = [ModelSource(name=n, checkpoint=path, loading=own) for n, path in named(args.checkpoints)]
    loading = given(args, "dtype", "offload", "lenient")
    if args.pretransform_ckpt_path is not None:
        loading["pretransform"] = args.pretransform_ckpt_path
    hosts = args.host_name or ([*LOOPBACK, args.host] if is_loopback(args.host) else [])
    tokens = read_tokens(args.token_file, os.environ.get(TOKEN))
    limits = given(args, *(name.replace("-", "_") for name, _, _ in _LIMITS))
    kept = {"results": args.keep_results, "uploads": args.keep_uploads}
    limits |= {name: value for name, value in kept.items() if value is not None}
    return ServiceSettings(
        models=models,
        folder=Path(args.out),
        devices=[str(device) for device in devices],
        adapters=dict(named(args.adapter or [])),
        worker=WorkerOptions(
            loading={**loading, "use_ema": not args.no_ema, "compiled": args.compile},
            any_base=args.any_base,
            **given(args, "matmul_precision", "chunked_decode", "resident"),
        ),
        limits=Limits(**limits),
        access=Access(tokens=tokens, origins=args.cors_origin or (), hosts=tuple(map(str.lower, hosts))),
        **given(args, "drain_seconds"),
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
