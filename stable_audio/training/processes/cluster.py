"""Map the processes of a launcher to Lightning's devices and nodes, so that they train together."""

from __future__ import annotations

import logging
import os
import socket
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments import ClusterEnvironment, LightningEnvironment
from lightning.fabric.utilities.rank_zero import rank_zero_only

from stable_audio.data.world import World, WorldError, refuse_other
from stable_audio.training.errors import TrainingError
from stable_audio.training.options import RunOptions
from stable_audio.training.processes.strangers import or_alone, told_of_strangers
from stable_audio.wording import plural

log = logging.getLogger(__name__)


class LaunchedEnvironment(ClusterEnvironment):
    """Ranks and address of processes that a launcher has started.

    Lightning numbers processes as nodes with equally many devices each. If that does not fit (each process
    sees one GPU of its own, or machines have different numbers of processes), every process is a node with
    one device.

    Args:
        world: the processes.
        grid: True: machines are Lightning's nodes; False: processes are.
    """

    def __init__(self, world: World, *, grid: bool) -> None:
        super().__init__()
        self.world, self.grid = world, grid

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        assert self.world.address is not None
        return self.world.address

    @property
    def main_port(self) -> int:
        assert self.world.port is not None
        return self.world.port

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self.world.size

    def set_world_size(self, size: int) -> None:
        if size != self.world.size:
            trained = plural(size, "process", "were")
            raise WorldError(f"{self.world}, but {trained} about to train; this must not happen")

    def global_rank(self) -> int:
        return self.world.rank

    def set_global_rank(self, rank: int) -> None:
        rank_zero_only.rank = self.world.rank  # type: ignore[attr-defined]

    def local_rank(self) -> int:
        return self.world.local_rank if self.grid else 0

    def node_rank(self) -> int:
        return self.world.node if self.grid else self.world.rank


@dataclass(frozen=True)
class ProcessLayout:
    """Devices and nodes for Lightning's Trainer.

    Attributes:
        devices: "auto", a count or a list of GPU indices.
        count: processes on this machine, as Lightning counts them.
        nodes: machines, as Lightning counts them.
        local: processes on this machine, however Lightning counts.
        environment: ranks and address of the processes.
    """

    devices: Any
    count: int
    nodes: int
    environment: ClusterEnvironment
    local: int = 1

    @property
    def processes(self) -> int:
        """Number of processes on all nodes."""
        return self.count * self.nodes


def layout(options: RunOptions, world: World) -> ProcessLayout:
    """Devices and nodes of a run: those of the launcher, or without one those of the options.

    Raises:
        TrainingError, WorldError: launcher and options contradict each other, or address or port are missing.
    """
    devices_option = parse_devices(options.devices)
    if not world.launcher:
        _refuse_lonely_nodes(options)
        here = _local_processes(devices_option, options)
        return ProcessLayout(devices_option, here, options.num_nodes or 1, LightningEnvironment(), here)
    count = (
        None
        if devices_option in ("auto", -1)
        else len(devices_option)
        if isinstance(devices_option, list)
        else int(devices_option)
    )
    refuse_other(world, devices=count, nodes=options.num_nodes)
    if world.size > 1 and (world.address is None or world.port is None):
        raise WorldError(
            f"{world}, but where they meet is not set; set MASTER_ADDR to the name of the first machine and "
            f"MASTER_PORT to a free port of it, the same for all{or_alone(world)}"
        )
    visible = _visible_gpus(options)
    grid = world.even and (visible is None or visible >= world.local_size)
    environment = LaunchedEnvironment(world, grid=grid)
    if grid:
        devices = devices_option if isinstance(devices_option, list) else world.local_size
        return ProcessLayout(devices, world.local_size, world.nodes, environment, world.local_size)
    if visible is None:
        return ProcessLayout(1, 1, world.size, environment, world.local_size)
    if isinstance(devices_option, list):
        index = devices_option[world.local_rank]
    elif visible == 1:  # each process sees its own
        index = 0
    elif visible > world.local_rank:
        index = world.local_rank
    else:
        raise TrainingError(
            f"{world}: {plural(world.local_size, 'process', 'are')} on this machine "
            f"({socket.gethostname()}), but only {plural(visible, 'GPU', 'are')} visible here; "
            "start as many processes as there are GPUs"
        )
    return ProcessLayout([index], 1, world.size, environment, world.local_size)


def log_world(world: World) -> None:
    """Log which processes train together, if there are several, and which were started with this one and do
    not."""
    if (strangers := told_of_strangers(world)) is not None:
        log.warning("%s", strangers)
    if world.size == 1:
        return
    log.info("%s; they meet at %s:%s", world, world.address, world.port)
    if not world.certain:
        log.warning(
            "SLURM allots %d tasks, but does not say that it started this one; in a batch script put "
            "`srun` before the command, or ask for one task%s: this process waits for the others",
            world.size,
            or_alone(world),
        )


def parse_devices(devices: str) -> Any:
    """Parse `auto`, a count, or a list such as `0,2`.

    Raises:
        TrainingError: `devices` is something else.
    """
    if devices == "auto":
        return devices
    try:
        numbers = [int(d) for d in devices.split(",") if d.strip()]
    except ValueError:
        numbers = []
    if not numbers or ("," not in devices and numbers[0] < 1 and numbers[0] != -1):
        raise TrainingError(f"--devices must be auto, a count or a list like 0,2; found '{devices}'")
    return numbers[0] if "," not in devices else numbers


def on_gpu(options: RunOptions) -> bool:
    """Whether the run uses NVIDIA or AMD GPUs."""
    return options.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()


def _visible_gpus(options: RunOptions) -> int | None:
    """Number of GPUs that this process sees; None if the run does not use GPUs."""
    return torch.cuda.device_count() if on_gpu(options) else None


def _local_processes(devices: Any, options: RunOptions) -> int:
    if isinstance(devices, list):
        return len(devices)
    if devices in ("auto", -1):
        return (_visible_gpus(options) or 1) if devices == "auto" or on_gpu(options) else 1
    return int(devices)


def _refuse_lonely_nodes(options: RunOptions) -> None:
    if (options.num_nodes or 1) > 1 and not {"NODE_RANK", "GROUP_RANK"} & os.environ.keys():
        raise TrainingError(
            f"--num-nodes {options.num_nodes}, but no launcher started this process, so it does not know "
            "which machine it is; start it with torchrun or srun on each, or set NODE_RANK, MASTER_ADDR and "
            "MASTER_PORT"
        )


def disable_signal_handlers(trainer: pl.Trainer) -> None:
    """Keep Lightning from handling signals: it would end a run with status 0 while the data is being read."""
    connector = getattr(trainer, "_signal_connector", None)
    if connector is not None:
        connector.register_signal_handlers = lambda: None
