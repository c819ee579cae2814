"""The processes that train together, as far as the memory of each depends on them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from lightning.pytorch.strategies import Strategy

from stable_audio.training.errors import TrainingError
from stable_audio.training.options import RunOptions
from stable_audio.training.processes.splitting import FSDP, HSDP, SPLITTING, SplitWeights, group_advice
from stable_audio.wording import plural

PLANNED = ("auto", "ddp", *SPLITTING)
"""Strategies whose memory is planned."""


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """The processes of a run, as far as memory depends on them.

    Attributes:
        processes: how many.
        strategy: one of `PLANNED`.
        shares: processes that have one copy of the weights together.
        gathers_checkpoints: whether the first process gathers what is split to write it as one file.
    """

    processes: int = 1
    strategy: str = "auto"
    shares: int = 1
    gathers_checkpoints: bool = False

    def part(self, size: int) -> int:
        """What one process has of bytes that are split."""
        return -(-size // self.shares)

    def copies_gradients(self, device: str) -> bool:
        """Whether what is sent of gradients is a copy of them, as DDP has it on a CPU."""
        return self.processes > 1 and self.shares == 1 and device == "cpu"

    def words(self) -> str:
        """In a few words; empty for one process."""
        if self.processes == 1:
            return ""
        parts = f", {self.shares} parts" if self.strategy == HSDP else ""
        return f"{'ddp' if self.strategy == 'auto' else self.strategy} on {self.processes} devices{parts}"


def sharing_of(options: RunOptions, processes: int) -> Sharing:
    """How the processes of a run with these options share weights.

    Raises:
        TrainingError: the strategy is not planned, or the processes are no groups of its size.
    """
    if processes < 1:
        raise TrainingError(f"--processes: found {processes}, a run has at least 1")
    if processes == 1:
        return Sharing()
    strategy = options.strategy or "auto"
    _require_planned(strategy)
    if strategy not in SPLITTING:
        return Sharing(processes=processes, strategy=strategy)
    size = processes if strategy != HSDP else options.shard_size
    if size is None:
        raise TrainingError(
            f"--strategy {HSDP} without --shard-size: a run takes the processes of one machine, which a plan "
            f"does not know; {group_advice(processes)}"
        )
    if processes % size or (strategy == HSDP and processes == size):
        raise TrainingError(
            f"--shard-size {size}: {plural(processes, 'process', 'are')} not several whole groups of {size}; "
            f"{group_advice(processes)}"
        )
    gathers = options.checkpoint_format == "file"
    return Sharing(processes=processes, strategy=strategy, shares=size, gathers_checkpoints=gathers)


def _require_planned(strategy: str) -> None:
    if strategy not in PLANNED:
        raise TrainingError(
            f"--strategy {strategy}: its memory is not planned; give one of {', '.join(PLANNED)}"
        )


def refuse_unplanned(options: RunOptions, asked: Collection[str]) -> None:
    """Refuse what a plan would not heed, also of one process, for which strategies are the same.

    Args:
        asked: fields of `options` that were asked for, beside those of the config.

    Raises:
        TrainingError: a strategy that is not planned, or a size of groups without them.
    """
    if "strategy" in asked:
        _require_planned(options.strategy or "auto")
    if "shard_size" in asked and options.strategy != HSDP:
        raise TrainingError(
            f"--shard-size is for --strategy {HSDP}, and this plan has --strategy {options.strategy}; "
            f"leave it out, or give --strategy {HSDP}"
        )


def sharing_in(strategy: Strategy, processes: int) -> Sharing:
    """How the processes of a run share weights by its strategy. Those of strategies that are not planned
    count as having a copy each."""
    if processes == 1 or not isinstance(strategy, SplitWeights):
        return Sharing(processes=processes)
    size = strategy.shard_size
    return Sharing(
        processes=processes,
        strategy=FSDP if size is None else HSDP,
        shares=size or processes,
        gathers_checkpoints=strategy.gathers,
    )
