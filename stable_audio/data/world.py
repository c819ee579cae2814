"""The processes that work together, as their launcher describes them in the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from stable_audio.wording import plural

T = TypeVar("T")

BY_LIGHTNING = frozenset({"NODE_RANK", "LOCAL_RANK"})
"""Variables that the processes have, beside WORLD_SIZE, which Lightning starts for `--devices`."""

SHELLS = ("interactive", "bash", "sh", "zsh", "fish")
"""Names of SLURM jobs that are an interactive shell."""


class WorldError(ValueError):
    """The environment and the options contradict each other about the number of processes."""


@dataclass(frozen=True)
class World:
    """This process's place among those that work together.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
        local_rank: number of this process on its machine, from 0.
        local_size: number of processes on this machine.
        node: number of this machine, from 0.
        nodes: number of machines.
        launcher: what started them: "torchrun", "SLURM", "MPI", "the environment"; "" = none, one process.
        address: host at which the processes meet, if the environment names it.
        port: port at which the processes meet, if the environment names it.
        certain: False where SLURM allots several tasks but does not say that it started this process.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    node: int = 0
    nodes: int = 1
    launcher: str = ""
    address: str | None = None
    port: int | None = None
    certain: bool = field(default=True, compare=False)

    def __post_init__(self) -> None:
        for place, count in (
            (self.rank, self.size),
            (self.local_rank, self.local_size),
            (self.node, self.nodes),
        ):
            if not 0 <= place < count:
                raise WorldError(
                    f"{self.launcher} says that this is process {self.rank} of {self.size}, and "
                    f"{self.local_rank} of {self.local_size} on machine {self.node} of {self.nodes}: that"
                    " is impossible; start all processes with one launcher, and leave its variables unchanged"
                )

    @property
    def even(self) -> bool:
        """Whether every machine has the same number of processes, numbered machine by machine."""
        return (
            self.size == self.nodes * self.local_size
            and self.rank == self.node * self.local_size + self.local_rank
        )

    def share(self, items: Sequence[T]) -> Iterator[tuple[int, T]]:
        """This process's share of the items, each with its index: every `size`-th, starting at its rank."""
        return ((i, item) for i, item in enumerate(items) if i % self.size == self.rank)

    def __str__(self) -> str:
        if self.size == 1:
            return "one process"
        machines = plural(self.nodes, "machine")
        return f"process {self.rank} of {self.size} on {machines}, counted from 0, started by {self.launcher}"


ALONE = World()
"""One process, whatever a launcher has started."""


def launched_world(environment: Mapping[str, str] | None = None) -> World:
    """The world that the launcher of this process describes; one process where there is no launcher.

    torchrun, SLURM (`srun`), MPI (`mpirun` of Open MPI, Intel MPI, MPICH) and whatever sets RANK and
    WORLD_SIZE are recognised. torchrun comes first, because it is also used inside SLURM. An interactive
    shell in a SLURM allocation is one process, whatever it has been allotted.

    Raises:
        WorldError: the variables contradict each other, or one of them is missing.
    """
    env = os.environ if environment is None else environment
    for detect in (_torchrun, _mpi, _slurm):
        if (world := detect(env)) is not None:
            return world
    return ALONE


def refuse_other(world: World, *, devices: int | None, nodes: int | None = None) -> None:
    """Refuse numbers on the command line that contradict those of the launcher.

    Args:
        devices: processes per machine; None if the user named no number.

    Raises:
        WorldError: the numbers differ; the message has both.
    """
    for flag, requested, actual, unit in (
        ("--devices", devices, world.local_size, "processes on this machine"),
        ("--num-nodes", nodes, world.nodes, "machines"),
    ):
        if requested is not None and requested != actual:
            raise WorldError(
                f"{flag} {requested}, but {world.launcher} started {plural(world.size, 'process')}, with "
                f"{actual} as the number of {unit}; leave {flag} out, or start as many as it says"
            )


def _torchrun(env: Mapping[str, str]) -> World | None:
    """RANK and WORLD_SIZE, with LOCAL_* by torchrun; other launchers may set the first two alone."""
    if "RANK" not in env:
        size = _count(env, "WORLD_SIZE", 1)
        by_other = bool({"SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK"} & env.keys())
        if size > 1 and not by_other and not env.keys() >= BY_LIGHTNING:
            raise WorldError(
                f"WORLD_SIZE is {size}, but RANK is not set, so this process does not know which one it is; "
                "start with torchrun, or set RANK, LOCAL_RANK, MASTER_ADDR and MASTER_PORT too, or unset "
                "WORLD_SIZE to run this process alone"
            )
        return None
    if "WORLD_SIZE" not in env:
        raise WorldError(
            f"RANK is {_count(env, 'RANK')}, but WORLD_SIZE is not set; start with torchrun, or unset RANK "
            "to run this process alone"
        )
    by_torchrun = "TORCHELASTIC_RUN_ID" in env or "GROUP_RANK" in env
    rank, size = _count(env, "RANK"), _count(env, "WORLD_SIZE")
    alone = "LOCAL_RANK" not in env  # one process per machine, as in clusters of containers
    if alone and size == 1:
        return None
    local_size = 1 if alone else _count(env, "LOCAL_WORLD_SIZE", 0)
    local_rank = 0 if alone else _count(env, "LOCAL_RANK")
    if not local_size:
        nodes = _count(env, "GROUP_WORLD_SIZE", 0) or _count(env, "NNODES", 0)
        local_size = size // nodes if nodes else _count(env, "NPROC_PER_NODE", 0) or size
    nodes = _count(env, "GROUP_WORLD_SIZE", 0) or -(-size // local_size)
    node = _count(env, "GROUP_RANK", rank // local_size)
    return World(
        rank=rank,
        size=size,
        local_rank=local_rank,
        local_size=local_size,
        node=node,
        nodes=nodes,
        launcher="torchrun" if by_torchrun else "the environment",
        address=env.get("MASTER_ADDR"),
        port=_count(env, "MASTER_PORT", 0) or None,
    )


def _mpi(env: Mapping[str, str]) -> World | None:
    names = {
        "OMPI_COMM_WORLD_": ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE"),
        "MPI_": ("RANKID", "NRANKS", "LOCALRANKID", "LOCALNRANKS"),
        "PMI_": ("RANK", "SIZE", "", ""),
    }
    for prefix, (rank, size, local_rank, local_size) in names.items():
        # SLURM sets PMI_* too, for programs that it starts.
        if prefix + rank not in env or prefix + size not in env or ("SLURM_PROCID" in env and not local_rank):
            continue
        if (count := _count(env, prefix + size)) == 1:
            return None
        ranks_here = _count(env, prefix + local_size, count) if local_size else count
        place = _count(env, prefix + rank)
        nodes = -(-count // ranks_here)
        return World(
            rank=place,
            size=count,
            local_rank=_count(env, prefix + local_rank, place % ranks_here) if local_rank else place,
            local_size=ranks_here,
            node=min(place // ranks_here, nodes - 1),
            nodes=nodes,
            launcher="MPI",
            address=env.get("MASTER_ADDR") or ("127.0.0.1" if nodes == 1 else None),
            port=_count(env, "MASTER_PORT", 0) or None,
        )
    return None


def _slurm(env: Mapping[str, str]) -> World | None:
    """A task of `srun`. Without SLURM_PROCID this is a shell with an allocation, not one of its tasks."""
    if "SLURM_PROCID" not in env:
        return None
    rank = _count(env, "SLURM_PROCID")
    # SLURM_STEP_* describe what srun started; SLURM_NTASKS what the job may start.
    by_srun = "SLURM_STEP_NUM_TASKS" in env or "SLURM_STEP_ID" in env
    size = _count(env, "SLURM_STEP_NUM_TASKS", 0) or _count(env, "SLURM_NTASKS", rank + 1)
    if size == 1 or (rank == 0 and _is_shell(env)):
        return None
    nodes = _count(env, "SLURM_STEP_NUM_NODES", 0) or _count(env, "SLURM_NNODES", 1)
    nodes = min(nodes, size)
    node, local_rank = _count(env, "SLURM_NODEID", 0), _count(env, "SLURM_LOCALID", 0)
    # The parts of a heterogeneous job have node lists and numbers of their own, by which they would not meet.
    # (SLURM_PACK_SIZE before SLURM 20.02)
    mixed = max(_count(env, "SLURM_HET_SIZE", 1), _count(env, "SLURM_PACK_SIZE", 1)) > 1
    return World(
        rank=rank,
        size=size,
        local_rank=local_rank,
        local_size=_local_tasks(env, node) or max(local_rank + 1, -(-size // nodes)),
        node=node,
        nodes=nodes,
        launcher="SLURM",
        address=env.get("MASTER_ADDR") or (None if mixed else _first_host(env)),
        port=_count(env, "MASTER_PORT", 0) or (None if mixed else _job_port(env)),
        certain=by_srun or rank > 0,
    )


def _is_shell(env: Mapping[str, str]) -> bool:
    """Whether task 0 is an interactive shell, so that the other tasks do not run this program.

    `srun --pty bash` sets SLURM_PTY_PORT; but tasks that are started from that shell inherit it, and the
    job's name: these have no terminal.
    """
    if env.get("SLURM_JOB_NAME", "") in SHELLS:
        return _count(env, "SLURM_STEP_NUM_TASKS", 1) == 1 or ("SLURM_PTY_PORT" in env and _has_terminal())
    return "SLURM_PTY_PORT" in env and _has_terminal()


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY))
    except OSError:
        return False
    return True


def _local_tasks(env: Mapping[str, str], node: int) -> int:
    """Tasks on machine `node` from lists such as `2(x3),1`; 0 where the list does not say."""
    for name in ("SLURM_STEP_TASKS_PER_NODE", "SLURM_NTASKS_PER_NODE", "SLURM_TASKS_PER_NODE"):
        # The variables of the job do not describe a step that has other numbers.
        if name != "SLURM_STEP_TASKS_PER_NODE" and _count(env, "SLURM_STEP_NUM_TASKS", 0) not in (
            0,
            _count(env, "SLURM_NTASKS", 0),
        ):
            continue
        counts = [
            int(count)
            for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", env.get(name, ""))
            for _ in range(int(times or 1))
        ]
        if counts:
            return counts[min(node, len(counts) - 1)]
    return 0


def _job_port(env: Mapping[str, str]) -> int:
    """A port that follows from the numbers of job and step, which may run beside others on a machine."""
    step = env.get("SLURM_STEP_ID", "0")
    return 15000 + (_count(env, "SLURM_JOB_ID", 0) + 101 * (int(step) if step.isdigit() else 0)) % 10000


def _first_host(env: Mapping[str, str]) -> str | None:
    """`node[07-09,12],other` -> `node07`, and `rack[1-2]node[01-04]` -> `rack1node01`."""
    hosts = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_NODELIST") or env.get("SLURM_JOB_NODELIST")
    if not hosts:
        return "127.0.0.1" if _count(env, "SLURM_NNODES", 1) == 1 else None
    return re.sub(r"\[([^,\]-]+)[^\]]*\]", r"\1", hosts.split(" ")[0]).split(",")[0]


def _count(env: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = env.get(name, "")
    if not text and default is not None:
        return default
    if not re.fullmatch(r"\d+", text.strip()):
        raise WorldError(f"the environment variable {name} must be a whole number, found '{text}'")
    return int(text)
