"""Trains a tiny model under SIGKILLs at random moments, and compares what comes of it with an unbroken run.

A killed run is started again by the same command until it is done. Weights, average, optimizer, position in
the data, rows of metrics and demos must then have the same bits; the exit status is 1 if anything differs,
or if a start fails for another reason than its kill.

    python scripts/soak.py                                   # 25 kills, over all settings in turns
    python scripts/soak.py --kills 200 --processes 2 --strategy fsdp --checkpoint-format shards
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.training.started import MOST_SECONDS, NAME, Setting, Started  # noqa: E402

DATASET = {"dataset_type": "synthetic", "num_clips": 24}
VALIDATION = {**DATASET, "split": "val", "num_clips": 4}

MOST_KILLS = 5
"""Of one run, so that all settings have their turn."""

EARLY = 0.2
"""Share of the kills that come before a start has trained a step."""


@dataclass
class Soaked:
    """A run that is done: where its kills came ("start", or after which step), and what differs."""

    setting: Setting
    folder: Path
    kills: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Durations(NamedTuple):
    """Seconds of an unbroken run until its first row of metrics, and from there to its end."""

    starting: float
    training: float


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=25, help="of all runs together (%(default)s)")
    parser.add_argument("--steps", type=int, default=40, help="of each run (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the moments (%(default)s)")
    parser.add_argument("--processes", type=int, nargs="+", choices=(1, 2), default=[1, 2])
    parser.add_argument("--strategy", nargs="+", choices=("ddp", "fsdp"), default=["ddp", "fsdp"])
    parser.add_argument(
        "--checkpoint-format", nargs="+", choices=("file", "shards"), default=["file", "shards"]
    )
    parser.add_argument("--out", type=Path, help="folder to keep the runs in; else they are removed")
    args = parser.parse_args()
    settings = chosen_settings(args.processes, args.strategy, args.checkpoint_format)
    out = args.out if args.out is not None else Path(tempfile.mkdtemp(prefix="soak-"))
    try:
        runs = soak(settings, out, kills=args.kills, steps=args.steps, seed=args.seed)
    finally:
        if args.out is None:
            shutil.rmtree(out, ignore_errors=True)
    print(table(runs))
    return 1 if any(run.differences for run in runs) else 0


def chosen_settings(
    processes: Sequence[int], strategies: Sequence[str], checkpoints: Sequence[str]
) -> list[Setting]:
    """All combinations; for one process strategies are the same."""
    alone = [Setting(1, "auto", kind) for kind in checkpoints if 1 in processes]
    several = [number for number in processes if number > 1]
    return alone + [Setting(*each) for each in itertools.product(several, strategies, checkpoints)]


def soak(settings: Sequence[Setting], out: Path, *, kills: int, steps: int, seed: int) -> list[Soaked]:
    """Train under kills with each setting in turns, until there were as many as asked for."""
    out = out.resolve()
    write_files(out, steps=steps)
    chance, runs, unbroken = random.Random(seed), [], {}
    for number in itertools.count():
        left = kills - sum(len(run.kills) for run in runs)
        fails = bool(runs) and bool(runs[-1].differences) and not runs[-1].kills  # without any kill
        if left <= 0 or fails:
            return runs
        setting = settings[number % len(settings)]
        if setting not in unbroken:
            whole = out / f"whole {setting}"
            unbroken[setting] = whole, train_unbroken(setting, whole, out, steps=steps)
        whole, durations = unbroken[setting]
        run = Soaked(setting, out / f"killed {number}")
        train_killed(run, out, durations, chance, most=min(left, MOST_KILLS), steps=steps)
        run.differences += differences(whole / NAME, run.folder / NAME)
        runs.append(run)
        print(_row(run), flush=True)
    raise AssertionError("unreachable")


def write_files(out: Path, *, steps: int) -> None:
    """The files of the model and of the data."""
    from tests.training.building import demo_section, tiny_config

    out.mkdir(parents=True, exist_ok=True)
    optimizer = {"type": "AdamW", "config": {"lr": 1e-3}}
    scheduler = {"type": "OneCycleLR", "config": {"max_lr": 1e-3, "total_steps": steps}}
    model: dict[str, Any] = tiny_config(
        cfg_dropout_prob=0.5,
        demo=demo_section(demo_every=5),
        log_loss_info=True,
        ema={"update_after_step": 2},
        optimizer_configs={"diffusion": {"optimizer": optimizer, "scheduler": scheduler}},
    )
    for name, content in (("model", model), ("data", DATASET), ("validation", VALIDATION)):
        (out / f"{name}.json").write_text(json.dumps(content))


def train_unbroken(setting: Setting, folder: Path, files: Path, *, steps: int) -> Durations:
    """Train in one go.

    Raises:
        SystemExit: that failed.
    """
    with Started(setting, folder, files, steps=steps) as start:
        start.wait(MOST_SECONDS, until_it_trains=True)
        trains = time.monotonic()
        if failed := start.failure():
            raise SystemExit(f"the unbroken run of {setting} failed: {failed}")
        return Durations(trains - start.began, time.monotonic() - trains)


def train_killed(
    run: Soaked, files: Path, durations: Durations, chance: random.Random, *, most: int, steps: int
) -> None:
    """Start a run again and again until it is done; kill it at most `most` times."""
    began, done = time.monotonic(), False
    while not done and not run.differences:
        with Started(run.setting, run.folder, files, steps=steps) as start:
            if len(run.kills) < most and _reaches_its_moment(start, durations, chance, steps):
                wrong = _kill(run, start, chance)
            else:
                wrong, done = start.failure(), True
        run.differences += [wrong] if wrong else []
    run.seconds = time.monotonic() - began


def _reaches_its_moment(start: Started, durations: Durations, chance: random.Random, steps: int) -> bool:
    """Wait for the moment of a kill; returns whether there is something to kill."""
    left = durations.training * (1 - start.rows.last_step() / steps)
    if chance.random() < EARLY:
        return start.wait(chance.uniform(0, durations.starting))
    return start.wait(MOST_SECONDS, until_it_trains=True) and start.wait(chance.uniform(0, left))


def _kill(run: Soaked, start: Started, chance: random.Random) -> str:
    """Kill one of the processes, or all as where the machine goes down; returns what is wrong then.

    Before they have met, a launcher ends all of them if one has died.
    """
    run.kills.append(str(start.rows.last_step()) if start.trains else "start")
    one = start.trains and chance.random() < 0.5
    return start.kill([chance.choice(start.processes)] if one else start.processes)


def differences(whole: Path, killed: Path) -> list[str]:
    """What differs between the run that got no kill and one that got some, and what these have left."""
    from tests.training.same_runs import run_differences

    halves = [f"{path} is left" for path in sorted(killed.rglob(".*partial*"))]
    return [*run_differences(whole, killed), *halves] if killed.is_dir() else ["there is no run"]


def table(runs: Sequence[Soaked]) -> str:
    """Runs, kills and differences."""
    lines = [_row(run) for run in runs]
    for run in runs:
        lines += [f"{run.setting}, {run.folder.name}: {text}" for text in run.differences]
    kills, wrong = sum(len(run.kills) for run in runs), sum(len(run.differences) for run in runs)
    return "\n".join([*lines, f"{len(runs)} runs, {kills} kills, {wrong} differences"])


def _row(run: Soaked) -> str:
    where = ", ".join(run.kills) or "none"
    return (
        f"{run.setting!s:24}  {len(run.kills):3d} kills ({where}) in {run.seconds:.0f} s: "
        f"{len(run.differences)} differences"
    )


if __name__ == "__main__":
    sys.exit(main())
