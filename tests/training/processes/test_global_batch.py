"""A run may go on with another number of processes on the same data in the same order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stable_audio.training.errors import TrainingError
from stable_audio.training.options import RunOptions
from tests.training.building import tiny_run
from tests.training.saving.test_resume import assert_same_checkpoint


@pytest.mark.parametrize(("processes", "accumulated", "share"), [(1, 1, 24), (2, 1, 12), (3, 4, 2)])
def test_processes_share_the_global_batch(processes: int, accumulated: int, share: int) -> None:
    options = RunOptions(global_batch_size=24, accum_batches=accumulated)
    assert options.shared_by(processes).batch_size == share
    assert RunOptions(batch_size=5).shared_by(processes).batch_size == 5


def test_what_cannot_be_shared_is_refused() -> None:
    with pytest.raises(
        TrainingError, match=r"24 cannot be shared evenly by 5 processes with 2 .* multiple of 10"
    ):
        RunOptions(global_batch_size=24, accum_batches=2).shared_by(5)
    with pytest.raises(
        TrainingError,
        match=r"by 4 processes; give a multiple of 4, such as 4 or 8, or start a number of .* divides 6",
    ):
        RunOptions(global_batch_size=6).shared_by(4)
    with pytest.raises(  # on no number of processes
        TrainingError,
        match=r"1 process with 3 .* such as 3 or 6, .* with --accum-batches that divides 4",
    ):
        RunOptions(global_batch_size=4, accum_batches=3).shared_by(1)
    with pytest.raises(TrainingError, match="--global-batch-size must be at least 1"):
        RunOptions(global_batch_size=0)


def test_a_run_has_its_share(tmp_path: Path) -> None:
    tiny_run(tmp_path, name="plain", max_steps=2, batch_size=4).start()
    run = tiny_run(tmp_path, name="shared", max_steps=2, batch_size=2, global_batch_size=4)
    assert run.options.batch_size == 4
    run.start()
    assert_same_checkpoint(tmp_path / "plain" / "last.ckpt", tmp_path / "shared" / "last.ckpt")


def test_a_loader_of_fewer_processes_goes_on_where_more_have_been(tmp_path: Path) -> None:
    def items(rank: int, world: int, state: Any = None, batches: int = 3) -> tuple[list[list[int]], Any]:
        options: dict[str, Any] = {"name": f"{rank} of {world}", "batch_size": 4 // world}
        loader = tiny_run(tmp_path, **options).data._make_loader(rank, world)
        if state is not None:
            loader.load_state_dict(dict(state))
        drawn = [list(batch.items) for _, batch in zip(range(batches), loader)]
        return drawn, loader.state_dict()

    halves = [items(rank, 2) for rank in (0, 1)]
    whole, _ = items(0, 1, batches=6)
    assert [a + b for a, b in zip(halves[0][0], halves[1][0])] == whole[:3]
    assert items(0, 1, halves[0][1])[0] == whole[3:]
