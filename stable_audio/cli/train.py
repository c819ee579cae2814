"""`stable-audio train`: train the model of a model file on the dataset of a dataset file."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from stable_audio.cli.foreign import boolean, ini_arguments, no_counterpart
from stable_audio.cli.options import add_matmul_precision, add_no_ema

HELP = "train a model"
SPLITS_WORK = True

EPILOG = """
exit status: 0 the last step was reached; 130 after Ctrl-C and 143 after SIGTERM, both with a checkpoint
written; 138 after SIGUSR1 with --requeue; 2 the run could not start or continue, with the reason on stderr.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("--model-config", help="model file; default: the one inside --ckpt-path")
    parser.add_argument("--dataset-config", required=True, help="dataset file")
    parser.add_argument("--val-dataset-config", help="dataset file for validation")
    parser.add_argument(
        "--config-file",
        metavar="FILE.ini",
        help="ini file with options, such as `batch_size = 8`",
    )
    parser.add_argument("--wandb-config", type=_unsupported("--wandb-config"), help=argparse.SUPPRESS)
    parser.add_argument("--lenient", action="store_true", help="report unknown keys of the files as warnings")
    _run_arguments(parser.add_argument_group("the run"))
    _weights_arguments(parser.add_argument_group("weights to start from"))
    _hardware_arguments(parser.add_argument_group("hardware"))


def _run_arguments(group: Any) -> None:
    group.add_argument(
        "--name", default="run", help="name of the run; its files go to SAVE_DIR/NAME (%(default)s)"
    )
    group.add_argument(
        "--project", default="", help="project at Weights & Biases (default: the name of the run)"
    )
    group.add_argument("--save-dir", default="runs", help="folder of the runs (%(default)s)")
    group.add_argument(
        "--max-steps", type=int, help="optimizer steps; -1 = until stopped (default: the config's, else -1)"
    )
    group.add_argument("--batch-size", type=int, help="items per process (default: the config's, else 4)")
    group.add_argument(
        "--accum-batches", type=int, default=1, help="batches per optimizer step (%(default)s)"
    )
    group.add_argument(
        "--num-workers",
        type=int,
        help="processes that load data, 0 = none (default: one per core, at most 6)",
    )
    group.add_argument(
        "--seed", type=int, default=42, help="seed of weights, data order and noise (%(default)s)"
    )
    group.add_argument(
        "--gradient-clip-val",
        type=float,
        help="maximum norm of the gradient, 0 = no clipping (default: the config's, else 0)",
    )
    group.add_argument(
        "--checkpoint-every",
        type=int,
        default=10000,
        help="steps between checkpoints; 0 = at the end only (%(default)s)",
    )
    group.add_argument(
        "--checkpoint-minutes",
        type=float,
        default=30.0,
        help="minutes between renewals of `last`, the first after 100 steps or 5 minutes; 0 = by steps alone "
        "(%(default)s)",
    )
    group.add_argument(
        "--keep",
        "--save-top-k",
        type=int,
        default=-1,
        help="number of step checkpoints to keep, -1 = all; `last` is always kept (%(default)s)",
    )
    group.add_argument(
        "--val-every", type=int, default=-1, help="steps between validations; default: --checkpoint-every"
    )
    group.add_argument("--log-every", type=int, default=1, help="steps per log line (%(default)s)")
    group.add_argument(
        "--logger", default="csv", help="none, csv, tensorboard, wandb; several with commas (%(default)s)"
    )
    group.add_argument(
        "--checkpoint-weights",
        choices=["whole", "base", "difference"],
        default="whole",
        help="what checkpoints hold: all weights; those that the run changes of --pretrained-ckpt-path, "
        "beside a copy of that file; or these alone (%(default)s)",
    )
    group.add_argument(
        "--no-background-checkpoints",
        dest="background_checkpoints",
        action="store_false",
        help="write checkpoints without a copy in host memory: training waits until they are on disk",
    )
    group.add_argument("--no-demos", dest="demos", action="store_false", help="render no demos")
    group.add_argument(
        "--first-demo-minutes",
        type=float,
        default=0.0,
        help="render demos after this time if the run has none by then; 0 = by steps alone (%(default)s)",
    )
    group.add_argument("--no-progress", dest="progress", action="store_false", help="print no progress line")


def _weights_arguments(group: Any) -> None:
    group.add_argument("--ckpt-path", default="", help="training checkpoint or folder of a run to continue")
    group.add_argument(
        "--recover",
        nargs="?",
        const=True,
        default=False,
        type=boolean,
        metavar="BOOL",
        help="continue from this run's last.ckpt if it exists",
    )
    group.add_argument(
        "--overwrite", action="store_true", help="delete an earlier run of the same name and start over"
    )
    group.add_argument(
        "--requeue",
        action="store_true",
        help="on SIGUSR1, save and put the SLURM job back into the queue, to recover when it starts again; "
        "without it, SIGUSR1 saves and training continues",
    )
    group.add_argument("--pretrained-ckpt-path", default="", help="weights of a model or of an autoencoder")
    group.add_argument("--pretransform-ckpt-path", default="", help="weights of the pretransform")
    group.add_argument(
        "--partial", action="store_true", help="load the weights that fit and report the others"
    )
    add_no_ema(group, "--no-ema-weights", dest="use_ema_weights", action="store_false")
    group.add_argument(
        "--remove-pretransform-weight-norm",
        default="",
        choices=["", "pre_load", "post_load"],
        help="fold the weight norms of the pretransform, before or after its weights are loaded",
    )
    group.add_argument(
        "--allow-untrained-pretransform",
        action="store_true",
        help="accept a learned pretransform with random weights",
    )


def _hardware_arguments(group: Any) -> None:
    group.add_argument(
        "--precision", default="auto", help="auto, 32-true, bf16-mixed, 16-mixed, ... (%(default)s)"
    )
    add_matmul_precision(group)
    group.add_argument("--accelerator", default="auto", help="auto, cpu, gpu, mps (%(default)s)")
    group.add_argument(
        "--devices", "--num-gpus", default="auto", help="auto, a count, or a list like 0,2 (%(default)s)"
    )
    group.add_argument("--num-nodes", type=int, help="machines (default: the launcher's, else 1)")
    group.add_argument(
        "--strategy",
        type=lambda text: text or "auto",
        default="auto",
        help="auto, ddp, fsdp, deepspeed, ... (%(default)s)",
    )
    group.add_argument(
        "--compile",
        action="store_true",
        help="compile the backbone, or the encoder and decoder of an autoencoder, with torch.compile",
    )


def _unsupported(flag: str) -> Callable[[str], str]:
    def refuse(text: str) -> str:
        raise argparse.ArgumentTypeError(no_counterpart(flag))

    return refuse


def expanded(argv: list[str]) -> list[str]:
    """The arguments after those of `--config-file`, so that the command line takes precedence."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-file")
    options, others = parser.parse_known_args(argv)
    return [*ini_arguments(options.config_file), *others] if options.config_file else argv


def run(args: argparse.Namespace) -> int:
    # Before anything else, so that no signal is lost while torch and Lightning are being imported.
    from stable_audio.training.stopping import StopRequest

    stop = StopRequest().install()
    try:
        return _train(args, stop)
    finally:
        stop.restore()


def _train(args: argparse.Namespace, stop: Any) -> int:
    from stable_audio.training.loggers import check_loggers

    check_loggers(args.logger)  # before files are read and models built, which may take minutes
    from stable_audio.training.record import EarlyLog

    with EarlyLog() as early:
        return _read_and_train(args, stop, early)


def _read_and_train(args: argparse.Namespace, stop: Any, early: Any) -> int:
    config = _model_config(args)
    dataset = _dataset(args.dataset_config, args.lenient)
    validation = _dataset(args.val_dataset_config, args.lenient) if args.val_dataset_config else None
    options = run_options(args, config.training)
    from stable_audio.training.trainer import train

    return train(config, dataset, options, val_dataset=validation, stop=stop, early=early)


def run_options(args: argparse.Namespace, section: Any) -> Any:
    """RunOptions from the flags, else from the config's `training` section, else the defaults."""
    import dataclasses

    from stable_audio.training.options import RunOptions

    names = [f.name for f in dataclasses.fields(RunOptions)]
    configured = {n: getattr(section, n, None) for n in ("batch_size", "max_steps", "gradient_clip_val")}
    flags = {n: getattr(args, n) for n in names}
    values = {n: v if v is not None else configured.get(n) for n, v in flags.items()}
    return RunOptions(**{n: v for n, v in values.items() if v is not None})


def _model_config(args: argparse.Namespace) -> Any:
    from stable_audio.config import load_config

    if args.model_config:
        return load_config(args.model_config, lenient=args.lenient)
    if not args.ckpt_path:
        raise ValueError(
            "--model-config is required, unless --ckpt-path names a checkpoint with a config inside"
        )
    from stable_audio.training.recovery import stored_config

    path, config = stored_config(args.ckpt_path)
    if config is None:
        raise ValueError(f"{path} has no config inside; give --model-config")
    return load_config(config, lenient=args.lenient, source_name=f"{path}, config")


def _dataset(path: str, lenient: bool) -> Any:
    from stable_audio.config import load_dataset_config

    return load_dataset_config(path, lenient=lenient)
