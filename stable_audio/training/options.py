"""Options of a run: everything that is not a property of the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from stable_audio.characters import refuse, refuse_name
from stable_audio.training.errors import TrainingError
from stable_audio.training.precision_names import precision_name
from stable_audio.wording import flag_of, plural

FOLDING = ("", "pre_load", "post_load")
CHECKPOINT_WEIGHTS = ("whole", "base", "difference")
CHECKPOINT_FORMATS = ("file", "shards")
MATMUL_PRECISIONS = ("highest", "high", "medium")
OF_CONFIG = {
    "batch_size": "batch_size",
    "max_steps": "max_steps",
    "gradient_clip_val": "gradient_clip_val",
    "log_every": "log_every_n_steps",
    "strategy": "strategy",
    "shard_size": "shard_size",
    "cpu_offload": "cpu_offload",
}
"""Options that the `training` section of a model file may have, too, and the keys there."""

MOST_WORKERS = 6
"""Processes that load data, if the number is not set and there are as many cores."""

PROFILED = 5
"""Steps that are recorded if the number is not set."""


def _usual_workers() -> int:
    from stable_audio.data.cores import cores_for_process  # with torch, which the command line waits for

    return min(MOST_WORKERS, cores_for_process())


@dataclass(frozen=True)
class RunOptions:
    """Settings of one run; the flags of the train command, by the same names.

    Attributes:
        project: project at Weights & Biases, "" = the name of the run.
        batch_size: items per batch and process.
        global_batch_size: items per optimizer step on all processes together, which share them; None:
            batch_size says how many each process has.
        max_steps: optimizer steps; -1 = until stopped.
        precision: a name of Lightning or of `stable_audio.training.devices.float8`, or "auto": bfloat16 on
            GPUs with support for it, else the best fit.
        matmul_precision: precision of float32 products on a GPU: "high" allows TF32, "highest" does not.
        checkpoint_every: steps between checkpoints; 0 = at the end only.
        keep: number of step checkpoints that stay; -1 = all.
        checkpoint_weights: what checkpoints hold: "whole" all weights, "difference" those that the run
            changes of the file at pretrained_ckpt_path, "base" the same beside a copy of that file.
        checkpoint_format: "file": training checkpoints are one file that the first process writes, with an
            inference file beside it; "shards": a folder in which every process writes what it has, and one
            inference file at the end.
        background_checkpoints: write them from a copy in host memory, while training goes on.
        checkpoint_minutes: greatest time without a new `last` checkpoint; 0 = by steps alone.
        first_demo_minutes: of training, after which a run without demos renders some; 0 = by steps alone.
        ckpt_path: training checkpoint to continue.
        recover: continue this run's own `last.ckpt`, if any.
        overwrite: delete an earlier run of this name; without this or recover, its folder is refused.
        requeue: on SIGUSR1, save and put the SLURM job back into the queue; it continues as with recover.
        pretrained_ckpt_path: file with weights to start from.
        adapters: merged into these weights first, as `AdapterSpec.parse` reads them.
        any_base: accept adapters that were trained on another model.
        pretransform_ckpt_path: file with the weights of the pretransform.
        remove_pretransform_weight_norm: "pre_load" or "post_load" to fold weight norms of the pretransform.
        devices: processes per machine; "auto" takes those of the launcher, or all GPUs of this machine.
        num_nodes: number of machines; None takes that of the launcher, or one.
        strategy: how several processes share the work: "auto", "ddp", "fsdp", "hsdp", "deepspeed", or a name
            of Lightning. The first four are one and the same for one process.
        shard_size: processes that share one copy of the model, with "hsdp"; None = those of a machine.
        cpu_offload: with "fsdp" and "hsdp", parts of weights and the optimizer rest in host memory.
        dead_after: seconds without a sign of life after which a process is taken for dead, and the others
            end; 0 = they are not watched.
        profile: steps to record for a page about what costs most; 0 = none.
        partial: load those pretrained weights that fit.
        use_ema_weights: start from the averaged weights.
    """

    name: str = "run"
    project: str = ""
    save_dir: str = "runs"
    batch_size: int = 4
    global_batch_size: int | None = None
    num_workers: int = field(default_factory=_usual_workers)
    seed: int = 42
    max_steps: int = -1
    precision: str = "auto"
    accum_batches: int = 1
    gradient_clip_val: float = 0.0
    checkpoint_every: int = 10000
    checkpoint_minutes: float = 30.0
    keep: int = -1
    checkpoint_weights: str = "whole"
    checkpoint_format: str = "file"
    background_checkpoints: bool = True
    val_every: int = -1
    log_every: int = 1
    logger: str = "csv"
    ckpt_path: str = ""
    recover: bool = False
    requeue: bool = False
    overwrite: bool = False
    pretrained_ckpt_path: str = ""
    pretransform_ckpt_path: str = ""
    remove_pretransform_weight_norm: str = ""
    adapters: Sequence[str] = ()
    any_base: bool = False
    partial: bool = False
    use_ema_weights: bool = True
    allow_untrained_pretransform: bool = False
    accelerator: str = "auto"
    devices: str = "auto"
    num_nodes: int | None = None
    strategy: str = "auto"
    shard_size: int | None = None
    cpu_offload: bool = False
    dead_after: float = 40.0
    compile: bool = False
    matmul_precision: str = "high"
    profile: int = 0
    progress: bool = True
    demos: bool = True
    first_demo_minutes: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "precision", precision_name(self.precision))
        for name, least in (
            ("batch_size", 1),
            ("num_workers", 0),
            ("accum_batches", 1),
            ("num_nodes", 1),
            ("global_batch_size", 1),
            ("shard_size", 2),
            ("log_every", 1),
            ("gradient_clip_val", 0),
            ("checkpoint_every", 0),
            ("checkpoint_minutes", 0),
            ("first_demo_minutes", 0),
            ("dead_after", 0),
            ("profile", 0),
        ):
            if getattr(self, name) is not None and getattr(self, name) < least:
                raise TrainingError(f"{flag_of(name)} must be at least {least}, found {getattr(self, name)}")
        if self.keep == 0 or self.keep < -1:
            raise TrainingError(f"--keep must be at least 1, or -1 for all, found {self.keep}")
        if self.max_steps == 0 or self.max_steps < -1:
            raise TrainingError(f"--max-steps must be at least 1, or -1 for no end, found {self.max_steps}")
        if self.remove_pretransform_weight_norm not in FOLDING:
            raise TrainingError(
                "--remove-pretransform-weight-norm must be pre_load or post_load, "
                f"found '{self.remove_pretransform_weight_norm}'"
            )
        if self.checkpoint_weights not in CHECKPOINT_WEIGHTS:
            raise TrainingError(
                f"--checkpoint-weights must be one of {', '.join(CHECKPOINT_WEIGHTS)}, "
                f"found '{self.checkpoint_weights}'"
            )
        if self.checkpoint_format not in CHECKPOINT_FORMATS:
            raise TrainingError(
                f"--checkpoint-format must be {' or '.join(CHECKPOINT_FORMATS)}, "
                f"found '{self.checkpoint_format}'"
            )
        if self.adapters and self.ckpt_path:
            raise TrainingError(
                "--adapter changes the weights that a run starts with, and --ckpt-path continues one, whose "
                "weights have its adapters already; leave one of them out"
            )
        if self.adapters and not self.pretrained_ckpt_path:
            raise TrainingError("--adapter needs --pretrained-ckpt-path, the model that the adapters are for")
        if self.matmul_precision not in MATMUL_PRECISIONS:
            raise TrainingError(
                f"--matmul-precision must be one of {', '.join(MATMUL_PRECISIONS)}, "
                f"found '{self.matmul_precision}'"
            )
        if not self.name or Path(self.name).name != self.name:
            raise TrainingError(f"--name must be a plain folder name, found '{self.name}'")
        for flag, text in (("--name", self.name), ("--project", self.project)):
            refuse(text, flag)
        refuse_name(self.folder, "files of a run")

    @classmethod
    def from_section(cls, section: Any, **settings: Any) -> RunOptions:
        """Options from `settings`, else from the `training` section of a model file, else the defaults.

        Args:
            section: the section, or None.
            settings: fields of this class.

        Raises:
            TrainingError: a value is not allowed.
        """
        configured = {name: getattr(section, key, None) for name, key in OF_CONFIG.items()}
        if settings.get("strategy") == cls.strategy:  # no choice
            settings.pop("strategy")
        return cls(**{**{name: v for name, v in configured.items() if v is not None}, **settings})

    def shared_by(self, processes: int) -> RunOptions:
        """The options with the batch size that follows from `global_batch_size`, if that is set.

        Raises:
            TrainingError: the items cannot be shared evenly.
        """
        if self.global_batch_size is None:
            return self
        batches = processes * self.accum_batches
        if self.global_batch_size % batches:
            raise TrainingError(self._not_shared(self.global_batch_size, processes))
        return replace(self, batch_size=self.global_batch_size // batches)

    def _not_shared(self, items: int, processes: int) -> str:
        """What is wrong with items per step that no such number of processes can share, and what to do."""
        batches, accumulated = processes * self.accum_batches, self.accum_batches
        several = f" with {accumulated} batches each (--accum-batches)" if accumulated > 1 else ""
        fewer = items // batches * batches
        near = f"{fewer} or {fewer + batches}" if fewer else str(batches)
        other = (
            f"a number of processes that divides {items // accumulated}"
            if items % accumulated == 0
            else f"with --accum-batches that divides {items}"
        )
        return (
            f"--global-batch-size {items} cannot be shared evenly by "
            f"{plural(processes, 'process')}{several}; give a multiple of {batches}, such as "
            f"{near}, or start {other}"
        )

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return Path(self.save_dir).expanduser() / self.name
