"""Checkpoints whose weights are no numbers: no run goes on from them."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio.checkpoints import CheckpointError
from stable_audio.checkpoints.checksums import save_torch_file
from stable_audio.checkpoints.shards import read_shards, taken_apart
from stable_audio.checkpoints.torch_file import load_torch_file
from stable_audio.training.guards.finite_values import not_finite_among, refuse_no_numbers
from stable_audio.training.saving.shard_writing import ShardWriting
from tests.training.building import tiny_config, tiny_run


def _break(path: Path, value: float = math.nan, *, average: bool = False) -> str:
    """Write a checkpoint anew with a weight that is no number, as earlier versions did; returns its name."""
    shards = path.is_dir()
    content = read_shards(path) if shards else load_torch_file(path)
    weights = content["stable_audio"]["ema"]["average"] if average else content["state_dict"]
    name = next(key for key, tensor in weights.items() if tensor.is_floating_point() and tensor.numel() > 9)
    weights[name] = weights[name].clone()
    weights[name].view(-1)[3] = value
    if shards:
        ShardWriting().write(path, taken_apart(content))
        return str(name)
    held = path.with_suffix(".held")
    save_torch_file(content, held)
    held.replace(path)  # other names of the file keep what it was
    return str(name)


def _warnings(caplog: pytest.LogCaptureFixture, path: Path) -> list[str]:
    return [r.getMessage() for r in caplog.records if str(path) in r.getMessage()]


@pytest.mark.parametrize(
    ("form", "value"), [("last", math.nan), ("numbered", math.inf), ("shards", math.nan)]
)
def test_a_run_is_continued_from_the_newest_checkpoint_of_numbers(
    tmp_path: Path, form: str, value: float, caplog: pytest.LogCaptureFixture
) -> None:
    options: dict[str, Any] = {"checkpoint_every": 2}
    if form == "shards":
        options["checkpoint_format"] = "shards"
    tiny_run(tmp_path, max_steps=4, **options).start()
    folder = tmp_path / "run"
    suffix = "shards" if form == "shards" else "ckpt"
    newest = folder / "checkpoints" / f"step=00000004.{suffix}"
    paths = [newest] if form == "shards" else [newest, folder / "last.ckpt"]
    names = [_break(path, value) for path in paths]
    if form == "last":
        newest.unlink()
        paths = paths[1:]
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        run = tiny_run(tmp_path, max_steps=6, recover=True, **options)
    assert run.resume == folder / "checkpoints" / f"step=00000002.{suffix}"
    for path in paths:
        (told,) = _warnings(caplog, path)
        assert f"its weights hold values that are not finite, in {names[0]}" in told
    assert run.start() == 0


@pytest.mark.parametrize("form", ["file", "shards"])
def test_a_path_to_one_is_one_clear_error(tmp_path: Path, form: str) -> None:
    tiny_run(tmp_path, max_steps=2, checkpoint_format=form).start()
    folder = tmp_path / "run"
    path = folder / "last.ckpt" if form == "file" else folder / "checkpoints" / "step=00000002.shards"
    name = _break(path)
    with pytest.raises(CheckpointError) as caught:
        tiny_run(tmp_path, max_steps=4, ckpt_path=str(path))
    assert str(caught.value) == (
        f"{path}: its weights hold values that are not finite, in {name}; take another checkpoint of that "
        "run, from before they broke"
    )


def test_an_average_that_is_no_number_counts_too(tmp_path: Path) -> None:
    config = tiny_config(ema={"update_after_step": 0})
    tiny_run(tmp_path, config, max_steps=2).start()
    name = _break(tmp_path / "run" / "last.ckpt", average=True)
    with pytest.raises(CheckpointError, match=f"not finite, in {name}"):
        tiny_run(tmp_path, config, max_steps=4, ckpt_path=str(tmp_path / "run" / "last.ckpt"))


def test_masks_and_whole_numbers_are_no_broken_weights() -> None:
    mask = torch.full((4, 4), -math.inf).triu(1)
    state = {"mask": mask, "count": torch.tensor(3), "empty": torch.ones(0), "x": torch.ones(2)}
    content = {"stable_audio": {"ema": None}, "state_dict": state}
    refuse_no_numbers(Path("x.ckpt"), content)
    state["x"] = torch.full((2,), -math.inf)
    with pytest.raises(CheckpointError, match="not finite, in x"):
        refuse_no_numbers(Path("x.ckpt"), content)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_values_that_are_not_finite_are_found_anywhere(dtype: torch.dtype) -> None:
    for value in (math.nan, math.inf, -math.inf):
        for place in (0, 500, 998):
            broken = torch.ones(999, dtype=dtype)
            broken[place] = value
            named = {"good": torch.full((999,), torch.finfo(dtype).max, dtype=dtype), "broken": broken}
            assert not_finite_among(named.items()) == ["broken"]
