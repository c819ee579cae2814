"""What a process says that may have been started without the others that its environment names, or beside
others that do not know of it."""

from __future__ import annotations

import os
from collections.abc import Mapping

from stable_audio.data.world import World


def or_alone(world: World) -> str:
    """The end of a sentence about processes that this one does not find: how it runs alone where variables
    may be left over from something else; "" where they are not."""
    names = {"the environment": "RANK and WORLD_SIZE", "SLURM": "" if world.certain else "SLURM_PROCID"}
    left_over = names.get(world.launcher)
    return f"; to run this process alone, unset {left_over}" if left_over else ""


def told_of_strangers(world: World, environment: Mapping[str, str] | None = None) -> str | None:
    """What a process is to say of others that were started with it, but do not know of it: those of several
    torchruns that `srun` has started, each of them for itself. None where there are none."""
    env = os.environ if environment is None else environment
    tasks = env.get("SLURM_STEP_NUM_TASKS", "1") if "SLURM_PROCID" in env else "1"
    if world.launcher != "torchrun" or world.nodes > 1 or tasks == "1":
        return None
    return (
        f"srun has started {tasks} tasks, and the torchrun of this one knows of no other: each of them works "
        "for itself, on the same; for one run, start one torchrun per machine (--ntasks-per-node=1), with "
        "--nnodes and the same --rdzv-endpoint, or no torchrun at all"
    )
