"""Checkpoints in parts: written by every process, read by any number of them."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio.adapters import AdapterError, read_adapter
from stable_audio.checkpoints import CheckpointError, read_checkpoint, resolve
from stable_audio.checkpoints.convert import convert_checkpoint
from stable_audio.checkpoints.shards import Shards, put_together, read_shards, taken_apart
from stable_audio.checkpoints.torch_file import load_torch_file
from stable_audio.cli import main
from stable_audio.inference.rendering.recipe import file_digest, read_recipe
from stable_audio.stored.shards_folder import COMPLETE
from stable_audio.training.callbacks.shard_checkpoints import ShardCheckpoints
from stable_audio.training.saving.checkpoint_io import AtomicCheckpointIO
from stable_audio.training.saving.recovery import newest_whole
from stable_audio.training.saving.shard_writing import ShardWriting
from tests.training.building import tiny_config, tiny_run
from tests.training.processes.models import config_of
from tests.training.processes.test_worlds import _assert_close
from tests.training.worlds import run_world

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch has no torch.distributed")
BACKBONES = ["dit", "unet"]


def _stage(folder: Path, options: dict[str, Any]) -> None:
    logging.disable(logging.WARNING)
    for backbone in BACKBONES:
        config = config_of(backbone)
        config["training"]["ema"] = {"update_after_step": 0}
        run = tiny_run(folder, config, **{"name": backbone, "devices": "auto", "demos": False, **options})
        run.module.double()
        run.start()


def _same_run(one: Path, other: Path) -> None:
    first, second = load_torch_file(one / "last.ckpt"), load_torch_file(other / "last.ckpt")
    _assert_close(first["state_dict"], second["state_dict"], "weights")
    averages = [content["stable_audio"]["ema"]["average"] for content in (first, second)]
    _assert_close(*averages, "average")
    states = [content["optimizer_states"][0]["state"] for content in (first, second)]
    assert states[0].keys() == states[1].keys()
    for number, state in states[0].items():
        _assert_close(state, states[1][number], f"optimizer {number}")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of one process all along."""
    folder = tmp_path_factory.mktemp("alone")
    run_world(1, _stage, folder, {"batch_size": 4, "max_steps": 8})
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["shards", "file"])
def test_a_run_goes_on_with_other_processes_and_strategies(tmp_path: Path, alone: Path, kind: str) -> None:
    """From 4 processes with 4, 2 and 1, from one with 2: the same as one process all along."""
    written = {"checkpoint_format": kind, "checkpoint_every": 2, "keep": 2}
    hybrid = {"strategy": "hsdp", "shard_size": 2, "batch_size": 1}
    stages: list[tuple[int, dict[str, Any]]] = [
        (4, {"strategy": "fsdp", "batch_size": 1, "max_steps": 2, **written}),
        (4, {**hybrid, "max_steps": 3, **written}),
        (2, {"strategy": "fsdp", "batch_size": 2, "max_steps": 4, **written}),
        (4, {**hybrid, "max_steps": 5, **written}),
        (1, {"batch_size": 4, "max_steps": 6, **written}),
        (2, {"strategy": "ddp", "batch_size": 2, "max_steps": 7, **written}),
        (1, {"batch_size": 4, "max_steps": 8}),
    ]
    for processes, options in stages:
        run_world(processes, _stage, tmp_path, {**options, "recover": True})
    for backbone in BACKBONES:
        _same_run(alone / backbone, tmp_path / backbone)
        names = sorted(p.name for p in (tmp_path / backbone / "checkpoints").glob("*.shards"))
        assert names == ["step=00000006.shards", "step=00000007.shards"][: 2 * (kind == "shards")]


def test_one_process_goes_on_from_parts_to_the_same_bits(tmp_path: Path) -> None:
    options = {"checkpoint_format": "shards", "max_steps": 3}
    assert tiny_run(tmp_path, name="parts", **options).start() == 0
    folder = tmp_path / "parts"
    assert not (folder / "last.ckpt").exists()
    assert tiny_run(tmp_path, name="parts", recover=True, max_steps=4).start() == 0
    assert tiny_run(tmp_path, name="whole", max_steps=4).start() == 0
    first, second = (load_torch_file(tmp_path / n / "last.ckpt") for n in ("whole", "parts"))
    assert all(torch.equal(v, second["state_dict"][k]) for k, v in first["state_dict"].items())
    averages = [content["stable_audio"]["ema"]["average"] for content in (first, second)]
    assert all(torch.equal(v, averages[1][k]) for k, v in averages[0].items())
    states = [content["optimizer_states"][0]["state"] for content in (first, second)]
    for number, state in states[0].items():
        assert all(torch.equal(v, states[1][number][k]) for k, v in state.items())


def test_a_checkpoint_in_parts_is_exported_without_the_run(tmp_path: Path) -> None:
    options = {"checkpoint_format": "shards", "max_steps": 3, "checkpoint_every": 2}
    config = tiny_config(ema={"update_after_step": 0})
    assert tiny_run(tmp_path, config, **options).start() == 0
    folder = tmp_path / "run"
    expected = read_checkpoint(folder / "last.safetensors")
    parts = folder / "checkpoints" / "step=00000003.shards"
    for name, source in (("a", parts), ("b", folder)):
        path = convert_checkpoint(source, tmp_path / f"{name}.safetensors")
        found = read_checkpoint(path)
        assert found.tensors.keys() == expected.tensors.keys()
        assert all(torch.equal(v, expected.tensors[k]) for k, v in found.tensors.items())
    online = read_checkpoint(parts, use_ema=False)
    assert online.weights == "online"
    assert any(not torch.equal(v, expected.tensors[k]) for k, v in online.tensors.items())
    assert all(v.device.type == "cpu" for v in online.tensors.values())
    (folder / "last.safetensors").unlink()
    assert read_checkpoint(folder).path == parts


def test_a_missing_part_is_named_and_an_older_checkpoint_is_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"checkpoint_format": "shards", "max_steps": 4, "checkpoint_every": 2}
    assert tiny_run(tmp_path, **options).start() == 0
    folder = tmp_path / "run" / "checkpoints"
    newest = folder / "step=00000004.shards"
    part = next(newest.glob("*.distcp"))
    part.unlink()
    found = newest_whole(tmp_path / "run")
    assert found is not None
    assert found[0].name == "step=00000002.shards"
    assert f"{newest}: lacks its part {part.name}" in caplog.text
    older = next(found[0].glob("*.distcp"))
    content = bytearray(older.read_bytes())
    content[len(content) // 2] ^= 1
    older.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged since it was written"):
        newest_whole(tmp_path / "run")
    (newest / COMPLETE).unlink()
    with pytest.raises(CheckpointError, match=r"complete\.json\), so it was not written completely"):
        read_shards(newest)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in parts of two steps."""
    folder = tmp_path_factory.mktemp("parts")
    assert tiny_run(folder, checkpoint_format="shards", max_steps=2, demos=False).start() == 0
    return folder / "run" / "checkpoints" / "step=00000002.shards"


def test_clips_of_a_checkpoint_in_parts_are_rendered_again(
    tmp_path: Path, parts: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = ["--device", "cpu", "--out"]
    given = ["--ckpt-path", str(parts), "--seconds", "0.2", "--steps", "1", "--seed", "3"]
    assert main(["generate", *given, *arguments, str(tmp_path / "one")]) == 0
    (recipe,) = (tmp_path / "one").glob("*.json")
    assert read_recipe(recipe).checkpoint.path == str(parts.resolve())
    assert main(["generate", "--from-json", str(recipe), *arguments, str(tmp_path / "two")]) == 0
    assert "is not the file" not in caplog.text
    (one,), (two,) = ((tmp_path / name).glob("*.wav") for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_the_digest_of_a_checkpoint_in_parts_is_that_of_its_list(tmp_path: Path, parts: Path) -> None:
    copy = shutil.copytree(parts, tmp_path / "copy.shards")
    assert file_digest(copy) == file_digest(parts)
    listed = json.loads((copy / COMPLETE).read_text())
    next(iter(listed["files"].values()))[1] = "00000000"
    (copy / COMPLETE).write_text(json.dumps(listed))
    assert file_digest(copy) != file_digest(parts)
    (copy / COMPLETE).write_text('{"files": []}')
    with pytest.raises(ValueError, match="has no list of its parts"):
        file_digest(copy)


def test_a_checkpoint_in_parts_has_any_name(tmp_path: Path, parts: Path) -> None:
    copy = shutil.copytree(parts, tmp_path / "model")
    first, second = read_checkpoint(parts), read_checkpoint(copy)
    assert second.path == copy
    assert all(torch.equal(value, second.tensors[key]) for key, value in first.tensors.items())
    options = {"ckpt_path": str(copy), "max_steps": 3, "demos": False, "name": "on"}
    assert tiny_run(tmp_path, **options).start() == 0
    (copy / COMPLETE).unlink()
    with pytest.raises(CheckpointError, match="has no list of its parts"):
        read_checkpoint(copy)


@pytest.mark.parametrize("name", ["__0_0.distcp", "rest.ckpt", "complete.json", ".metadata"])
def test_the_folder_is_asked_for_where_one_part_is_given(parts: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match=r"one part of a checkpoint; give the folder .*\.shards"):
        read_checkpoint(parts / name)


def test_a_checkpoint_in_parts_is_no_adapter(parts: Path) -> None:
    with pytest.raises(AdapterError, match="give the folder of its run"):
        read_adapter(parts)


@pytest.mark.parametrize("use_ema", [True, False])
def test_the_folder_of_a_run_gives_its_latest_weights(tmp_path: Path, parts: Path, use_ema: bool) -> None:
    """`last.safetensors` is written when a run ends or stops, and has averaged weights alone."""
    folder = tmp_path / "run"
    shutil.copytree(parts.parents[1], folder)
    inference, first = folder / "last.safetensors", folder / "checkpoints" / parts.name
    assert resolve(folder, use_ema=use_ema) == (inference if use_ema else first)
    written = inference.read_bytes()
    options = {"checkpoint_format": "shards", "max_steps": 3, "demos": False}
    assert tiny_run(tmp_path, recover=True, **options).start() == 0
    second = first.with_name("step=00000003.shards")
    assert resolve(folder, use_ema=use_ema) == (inference if use_ema else second)
    inference.write_bytes(written)
    assert resolve(folder, use_ema=use_ema) == second
    (second / COMPLETE).unlink()
    assert resolve(folder, use_ema=use_ema) == (inference if use_ema else first)


def test_content_is_taken_apart_and_put_together() -> None:
    content = {"a": {3: {"x": torch.ones(2)}}, "b": [torch.zeros(1), None, (1, "two")], "c": 0.5}
    rest, tensors = taken_apart(content)
    assert tensors.keys() == {"a/3/x", "b/0"}
    json.dumps(rest["c"])
    again = put_together(rest, tensors)
    assert torch.equal(again["a"][3]["x"], torch.ones(2))
    assert again["b"][1:] == [None, [1, "two"]]


def test_a_checkpoint_that_cannot_be_written_leaves_the_earlier_one(tmp_path: Path) -> None:
    writing, folder = ShardWriting(), tmp_path / "step=1.shards"
    writing.write(folder, Shards({"n": 1}, {"x": torch.ones(3)}))

    class Unpicklable:
        def __reduce__(self) -> Any:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=r"process 0: .*No space left"):
        writing.write(folder, Shards({"n": Unpicklable()}, {"x": torch.zeros(3)}))
    assert read_shards(folder)["n"] == 1
    assert [p.name for p in tmp_path.iterdir()] == [folder.name]


def test_an_inference_file_that_cannot_be_written_is_an_incident(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def write(path: Path, tensors: Any) -> None:
        raise OSError(28, "No space left on device")

    checkpoints = object.__new__(ShardCheckpoints)
    checkpoints.io = AtomicCheckpointIO()
    checkpoints._written(write, tmp_path / "last.safetensors", 7, {"x": torch.ones(3)})
    assert checkpoints.io.failure is not None
    assert (
        "last.safetensors: the inference file, which `stable-audio export` makes too, was not written (No"
        in (checkpoints.io.failure)
    )
    assert caplog.records[0].incident == {"kind": "checkpoint not written", "step": 7}  # type: ignore[attr-defined]
