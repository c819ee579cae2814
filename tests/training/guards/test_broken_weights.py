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
from stable_audio.checkpoints.shards import read_shards, taken_apart, tensors_in_turn
from stable_audio.checkpoints.torch_file import load_torch_file
from stable_audio.optim import AdamW4bit, AdamW8bit, AdamWFp8
from stable_audio.training.errors import TrainingError
from stable_audio.training.guards.finite_values import in_state_of, not_finite_among, refuse_no_numbers
from stable_audio.training.saving.shard_writing import ShardWriting
from tests.training.building import tiny_config, tiny_run


def _break(path: Path, value: float = math.nan, *, part: str = "weights") -> str:
    """Write a checkpoint anew with a number that is none, as earlier versions did; returns its name.

    Args:
        part: what it is in: "weights", "average" or "optimizer".
    """
    shards = path.is_dir()
    content = read_shards(path) if shards else load_torch_file(path)
    weights = content["stable_audio"]["ema"]["average"] if part == "average" else content["state_dict"]
    if part == "optimizer":
        states = content["optimizer_states"][0]["state"]
        number = next(n for n, state in states.items() if state["exp_avg_sq"].numel() > 9)
        weights = states[number]
    name = next(key for key, tensor in weights.items() if tensor.is_floating_point() and tensor.numel() > 9)
    name = "exp_avg_sq" if part == "optimizer" else name
    weights[name] = weights[name].clone()
    weights[name].view(-1)[3] = value
    shown = f"optimizer_states/0/state/{number}/{name}" if part == "optimizer" else str(name)
    if shards:
        ShardWriting().write(path, taken_apart(content))
        return shown
    held = path.with_suffix(".held")
    save_torch_file(content, held)
    held.replace(path)  # other names of the file keep what it was
    return shown


def _warnings(caplog: pytest.LogCaptureFixture, path: Path) -> list[str]:
    records = (r for r in caplog.records if r.levelno >= logging.WARNING)
    return [r.getMessage() for r in records if str(path) in r.getMessage()]


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


SAID = {"average": "the average of its weights holds", "optimizer": "the state of its optimizer holds"}


@pytest.mark.parametrize("form", ["file", "shards"])
@pytest.mark.parametrize("part", list(SAID))
def test_an_average_or_an_optimizer_that_is_no_number_counts_too(
    tmp_path: Path, part: str, form: str, caplog: pytest.LogCaptureFixture
) -> None:
    config, options = tiny_config(ema={"update_after_step": 0}), {"checkpoint_format": form}
    tiny_run(tmp_path, config, max_steps=4, checkpoint_every=2, **options).start()
    folder = tmp_path / "run"
    path = folder / "checkpoints" / f"step=00000004.{'ckpt' if form == 'file' else 'shards'}"
    (folder / "last.ckpt").unlink(missing_ok=True)
    name = _break(path, part=part)
    said = (
        f"{path}: {SAID[part]} values that are not finite, in {name}; take another checkpoint of that run, "
        "from before they broke"
    )
    with pytest.raises(CheckpointError) as caught:
        tiny_run(tmp_path, config, max_steps=6, ckpt_path=str(path), **options)
    assert str(caught.value) == said
    caplog.clear()
    run = tiny_run(tmp_path, config, max_steps=6, recover=True, **options)
    assert run.resume == path.with_name(path.name.replace("4", "2"))
    assert _warnings(caplog, path) == [said]
    assert run.start() == 0


@pytest.mark.parametrize("form", ["file", "shards"])
def test_an_optimizer_that_is_no_number_replaces_no_checkpoint(tmp_path: Path, form: str) -> None:
    run = tiny_run(tmp_path, max_steps=4, checkpoint_every=2, keep=1, checkpoint_format=form)
    end_batch = run.module.end_batch

    def end(*, stepped: bool) -> None:
        end_batch(stepped=stepped)
        if run.module.position == 4:
            (optimizer,) = run.trainer.optimizers
            state = next(state for state in optimizer.state.values() if state["exp_avg_sq"].numel() > 9)
            state["exp_avg_sq"].view(-1)[3] = math.inf

    run.module.end_batch = end  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match="the state of the optimizer holds values that are not finite"):
        run.start()
    suffix = "ckpt" if form == "file" else "shards"
    assert [p.name for p in (tmp_path / "run" / "checkpoints").glob(f"*.{suffix}")] == [
        f"step=00000002.{suffix}"
    ]


def test_tensors_in_turn_are_all_of_them_a_few_at_a_time(tmp_path: Path) -> None:
    content = {"a": torch.ones(100), "b": torch.ones(300), "c": [torch.ones(50), torch.ones(50)], "d": 1}
    ShardWriting().write(tmp_path / "x.shards", taken_apart(content))
    groups = list(tensors_in_turn(tmp_path / "x.shards", wanted=lambda key: key != "a", most_bytes=400))
    assert sorted(sorted(group) for group in groups) == [["b"], ["c/0", "c/1"]]
    assert all(bool((tensor == 1).all()) for group in groups for tensor in group.values())


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_numbers_of_eight_bits_are_looked_at(dtype: torch.dtype) -> None:
    good, bad = torch.ones(9).to(dtype), torch.tensor([1.0, math.nan]).to(dtype)
    assert not_finite_among([("good", good), ("bad", bad)]) == ["bad"]


@pytest.mark.parametrize("kind", [AdamW8bit, AdamW4bit, AdamWFp8, torch.optim.AdamW])
def test_the_state_of_every_optimizer_is_looked_at(kind: Any) -> None:
    weight = torch.nn.Parameter(torch.ones(64, 256))
    optimizer = kind([weight], lr=1e-3)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    state = dict(in_state_of([optimizer]))
    assert not_finite_among(state.items()) == []
    name = next(name for name in state if "exp_avg_sq" in name and state[name].dtype is torch.float32)
    state[name].view(-1)[0] = math.nan
    assert not_finite_among(in_state_of([optimizer])) == [name]


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
