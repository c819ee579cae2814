"""`stable-audio train`: train the model of a model file on the dataset of a dataset file."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from typing import Any

from stable_audio.cli.fields import add_field, fields_from
from stable_audio.cli.foreign import boolean, ini_arguments, no_counterpart
from stable_audio.cli.importing import importing
from stable_audio.cli.options import (
    OR_PARTS_OR_HUB,
    add_adapter,
    add_any_base,
    add_matmul_precision,
    add_no_ema,
)
from stable_audio.training.options import (
    CHECKPOINT_FORMATS,
    CHECKPOINT_WEIGHTS,
    FOLDING,
    MOST_WORKERS,
    PROFILED,
    RunOptions,
)
from stable_audio.training.processes.stopping import StopRequest

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
    add = functools.partial(add_field, group, RunOptions)
    add("name", help="name of the run; its files go to SAVE_DIR/NAME (%(default)s)")
    add("project", help="project at Weights & Biases (default: the name of the run)")
    add("save_dir", help="folder of the runs (%(default)s)")
    _add_configured(
        group, "max_steps", help="optimizer steps; -1 = until stopped (default: the config's, else {default})"
    )
    _add_configured(group, "batch_size", help="items per process (default: the config's, else {default})")
    add(
        "global_batch_size",
        help="items per step of all processes together, in place of --batch-size: a run may then go on with "
        "another number of processes on the same data in the same order",
    )
    add("accum_batches", help="batches per optimizer step (%(default)s)")
    add(
        "num_workers",
        help=f"processes that load data, 0 = none (default: one per core, at most {MOST_WORKERS})",
    )
    add("seed", help="seed of weights, data order and noise (%(default)s)")
    _add_configured(
        group,
        "gradient_clip_val",
        help="maximum norm of the gradient, 0 = no clipping (default: the config's, else {default:g})",
    )
    add("checkpoint_every", help="steps between checkpoints; 0 = at the end only (%(default)s)")
    add(
        "checkpoint_minutes",
        help="minutes between renewals of `last`, the first after 100 steps or 5 minutes; 0 = by steps alone "
        "(%(default)s)",
    )
    add(
        "keep",
        "--save-top-k",
        help="number of step checkpoints to keep, -1 = all; `last` is always kept (%(default)s)",
    )
    add("val_every", help="steps between validations; default: --checkpoint-every")
    _add_configured(
        group,
        "log_every",
        help="steps per log line (default: log_every_n_steps of the config, else {default})",
    )
    add("logger", help="none, csv, tensorboard, wandb; several with commas (%(default)s)")
    add(
        "checkpoint_weights",
        choices=CHECKPOINT_WEIGHTS,
        help="what checkpoints hold: all weights; those that the run changes of --pretrained-ckpt-path, "
        "beside a copy of that file; or these alone (%(default)s)",
    )
    add(
        "checkpoint_format",
        choices=CHECKPOINT_FORMATS,
        help="training checkpoints as one file each, or as folders in which every process writes its share, "
        "with one inference file at the end (%(default)s)",
    )
    add(
        "background_checkpoints",
        help="write checkpoints without a copy in host memory: training waits until they are on disk",
    )
    add("demos", help="render no demos")
    add(
        "first_demo_minutes",
        help="render demos after this time if the run has none by then; 0 = by steps alone (%(default)s)",
    )
    add("progress", help="print no progress line")


def _add_configured(group: Any, name: str, *, help: str) -> None:
    """Add a flag that takes precedence over the key of the same name in the model file.

    Args:
        help: with `{default}` where both are absent.
    """
    default = getattr(RunOptions, name)
    add_field(group, RunOptions, name, default=None, help=help.format(default=default))


def _weights_arguments(group: Any) -> None:
    add = functools.partial(add_field, group, RunOptions)
    add("ckpt_path", help=f"training checkpoint or folder of a run to continue{OR_PARTS_OR_HUB}")
    add(
        "recover",
        nargs="?",
        const=True,
        type=boolean,
        metavar="BOOL",
        help="continue from this run's last.ckpt if it exists",
    )
    add("overwrite", help="delete an earlier run of the same name and start over")
    add(
        "requeue",
        help="on SIGUSR1, or SIGTERM of a pre-emption, save and put the SLURM job back into the queue, to "
        "recover when it starts again; without it, SIGUSR1 saves and training continues",
    )
    add("pretrained_ckpt_path", help=f"weights of a model or of an autoencoder{OR_PARTS_OR_HUB}")
    add_adapter(
        group,
        dest="adapters",
        help="adapter to merge into the weights of --pretrained-ckpt-path first; may be repeated",
    )
    add_any_base(group)
    add("pretransform_ckpt_path", help=f"weights of the pretransform{OR_PARTS_OR_HUB}")
    add("partial", help="load the weights that fit and report the others")
    add_no_ema(group, "--no-ema-weights", dest="use_ema_weights", action="store_false")
    add(
        "remove_pretransform_weight_norm",
        choices=FOLDING,
        help="fold the weight norms of the pretransform, before or after its weights are loaded",
    )
    add("allow_untrained_pretransform", help="accept a learned pretransform with random weights")


def _hardware_arguments(group: Any) -> None:
    add = functools.partial(add_field, group, RunOptions)
    add("precision", help="auto, 32-true, bf16-mixed, 16-mixed, fp8-mixed, ... (%(default)s)")
    add_matmul_precision(group)
    add("accelerator", help="auto, cpu, gpu, mps (%(default)s)")
    add("devices", "--num-gpus", help="auto, a count, or a list like 0,2 (%(default)s)")
    add("num_nodes", help="machines (default: the launcher's, else 1)")
    add(
        "strategy",
        type=lambda text: text or RunOptions.strategy,
        help="how several processes share the work: ddp, fsdp, hsdp, deepspeed, ...; auto is what the config "
        "says, else ddp (%(default)s)",
    )
    add(
        "shard_size",
        help="processes that share one copy of the model with --strategy hsdp (default: the config's, else "
        "those of one machine)",
    )
    add(
        "cpu_offload",
        default=None,
        help="with --strategy fsdp or hsdp, keep parts of weights, gradients and optimizer in host memory",
    )
    add(
        "dead_after",
        help="seconds after which a process of the run that gives no sign of life is taken for dead, and the "
        "others end; 0: they are not watched (%(default)g)",
    )
    add(
        "compile",
        help="compile the backbone, or the encoder and decoder of an autoencoder, with torch.compile",
    )
    add(
        "profile",
        nargs="?",
        const=PROFILED,
        metavar="STEPS",
        help="record so many steps after the first few: a trace, and a page about what costs most and what "
        f"would help, in SAVE_DIR/NAME/profile; without a number {PROFILED} (default: none)",
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


def run(args: argparse.Namespace, *, stop: StopRequest) -> int:
    with importing():
        from stable_audio.training.from_files import train_from_files

    return train_from_files(
        args.dataset_config,
        model_config=args.model_config,
        val_dataset_config=args.val_dataset_config,
        lenient=args.lenient,
        stop=stop,
        **fields_from(args, RunOptions),
    )
