"""A run whose newest checkpoint is damaged goes on from the newest one that is whole."""

from __future__ import annotations

import csv
import errno
import json
import logging
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from stable_audio.checkpoints import CheckpointError, checksums
from stable_audio.checkpoints.torch_file import load_torch_file
from stable_audio.cli import main
from stable_audio.config import load_config
from stable_audio.training.errors import TrainingError
from stable_audio.training.options import RunOptions
from stable_audio.training.saving import checkpoint_io
from stable_audio.training.saving.checkpoint_files import last_steps
from stable_audio.training.saving.recovery import stored_config
from stable_audio.training.saving.resuming import resumed_checkpoint
from tests.training.building import DATASET, tiny_config, tiny_run
from tests.training.saving.test_resume import assert_same_checkpoint


def _damage(path: Path) -> None:
    """Flip a byte within the weights; other names of the file see it as well."""
    tensor = next(v for v in load_torch_file(path)["state_dict"].values() if v.numel() > 100)
    values = tensor.numpy().tobytes()
    with open(path, "rb+") as file:
        place = file.read().index(values) + 50
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))


def _curve(folder: Path) -> list[tuple[str, str]]:
    with open(folder / "metrics.csv", newline="") as file:
        return [(row["step"], row["train/loss"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_recover_falls_back_to_the_newest_whole_checkpoint(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"checkpoint_every": 2}
    tiny_run(tmp_path, name="whole", max_steps=6, **options).start()
    tiny_run(tmp_path, name="parts", max_steps=4, **options).start()
    folder = tmp_path / "parts"
    if damage == "flip":
        _damage(folder / "last.ckpt")
    else:
        with open(folder / "last.ckpt", "rb+") as file:
            file.truncate((folder / "last.ckpt").stat().st_size * 2 // 3)
    with caplog.at_level(logging.WARNING):
        run = tiny_run(tmp_path, name="parts", max_steps=6, recover=True, **options)
    assert run.resume == folder / "checkpoints" / "step=00000002.ckpt"
    assert f"{folder / 'last.ckpt'}: " in caplog.text
    assert "step 2, the newest checkpoint that is not damaged" in caplog.text
    assert run.start() == 0
    assert_same_checkpoint(tmp_path / "whole" / "last.ckpt", folder / "last.ckpt")
    assert _curve(tmp_path / "whole") == _curve(folder)


def test_recover_without_a_whole_checkpoint_names_them_all(tmp_path: Path) -> None:
    tiny_run(tmp_path, max_steps=2, checkpoint_every=1).start()
    files = sorted((tmp_path / "run" / "checkpoints").glob("*.ckpt"))
    assert len(files) == 2
    for path in files:
        _damage(path)
    with pytest.raises(CheckpointError, match=r"no checkpoint is whole, of 2: .*step=00000001\.ckpt"):
        tiny_run(tmp_path, max_steps=4, recover=True)


@pytest.mark.parametrize(
    ("given", "advice", "taken"),
    [
        ({"recover": True}, "--overwrite in place of --recover, or", {"overwrite": True}),
        ({"recover": True}, "or choose another --name", {"recover": True, "name": "another"}),
        (
            {"ckpt_path": "run"},
            "leave --ckpt-path out and choose a --name that no run has",
            {"name": "another"},
        ),
    ],
)
def test_what_is_advised_where_all_checkpoints_are_damaged_starts_from_the_beginning(
    tmp_path: Path, given: dict[str, Any], advice: str, taken: dict[str, Any]
) -> None:
    tiny_run(tmp_path, max_steps=1).start()
    _damage(tmp_path / "run" / "last.ckpt")  # and the numbered one, which is the same file
    if "ckpt_path" in given:
        given = {"ckpt_path": str(tmp_path / "run")}
    with pytest.raises(CheckpointError, match=advice):
        tiny_run(tmp_path, max_steps=1, **given)
    run = tiny_run(tmp_path, max_steps=1, **taken)
    assert run.resume is None
    assert run.start() == 0


def test_a_job_of_the_queue_is_told_which_flag_overwrite_replaces(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.ckpt").write_bytes(b"damaged")
    options = RunOptions(save_dir=str(tmp_path), recover=True, requeue=True)
    with pytest.raises(CheckpointError, match="--overwrite in place of --recover and --requeue"):
        resumed_checkpoint(options, load_config(tiny_config()))


def test_recover_takes_the_newest_even_if_last_is_older_or_missing(tmp_path: Path) -> None:
    # A run killed between writing a checkpoint and giving it its second name.
    tiny_run(tmp_path, max_steps=2, checkpoint_every=1).start()
    folder = tmp_path / "run"
    (folder / "last.ckpt").unlink()
    assert tiny_run(tmp_path, max_steps=4, recover=True).resume == folder / "checkpoints/step=00000002.ckpt"
    (folder / "last.ckpt").hardlink_to(folder / "checkpoints" / "step=00000001.ckpt")
    assert tiny_run(tmp_path, max_steps=4, recover=True).resume == folder / "checkpoints/step=00000002.ckpt"


def test_a_named_folder_falls_back_and_a_named_file_does_not(tmp_path: Path) -> None:
    tiny_run(tmp_path, max_steps=2, checkpoint_every=1).start()
    folder = tmp_path / "run"
    _damage(folder / "last.ckpt")
    again = tiny_run(tmp_path, name="again", max_steps=4, ckpt_path=str(folder))
    assert again.resume == folder / "checkpoints" / "step=00000001.ckpt"
    with pytest.raises(CheckpointError, match="the checksum differs in"):
        tiny_run(tmp_path, name="again", max_steps=4, ckpt_path=str(folder / "last.ckpt"))


def test_recover_in_an_empty_folder_starts(tmp_path: Path) -> None:
    assert tiny_run(tmp_path, max_steps=1, recover=True).resume is None


def test_the_config_comes_from_the_checkpoint_that_the_run_goes_on_from(tmp_path: Path) -> None:
    tiny_run(tmp_path, max_steps=2, checkpoint_every=1).start()
    folder = tmp_path / "run"
    (folder / "last.safetensors").write_bytes(b"damaged")
    assert stored_config(folder) == (folder / "last.ckpt", tiny_config())
    _damage(folder / "last.ckpt")
    assert stored_config(folder) == (folder / "checkpoints" / "step=00000001.ckpt", tiny_config())
    weights = folder / "checkpoints" / "step=00000001.safetensors"
    assert stored_config(weights) == (weights, tiny_config())
    data = tmp_path / "data.json"
    data.write_text(json.dumps(DATASET))
    flags = [
        "--dataset-config",
        str(data),
        "--save-dir",
        str(tmp_path),
        "--num-workers",
        "0",
        "--no-progress",
    ]
    assert (
        main(["train", "--ckpt-path", str(folder), "--max-steps", "3", "--accelerator", "cpu", *flags]) == 0
    )
    assert load_torch_file(folder / "last.ckpt")["stable_audio"]["step"] == 3


@pytest.mark.parametrize("stale", [("last.ckpt", "last.safetensors"), ("last.ckpt",), ("last.safetensors",)])
def test_last_is_renewed_where_a_killed_run_has_no_step_left(tmp_path: Path, stale: tuple[str, ...]) -> None:
    """As left by a run that is killed between the checkpoint of its last step and the names `last`."""
    run = tiny_run(tmp_path, max_steps=4, checkpoint_every=2)
    run.start()
    folder, whole = tmp_path / "run", tmp_path / "whole.ckpt"
    whole.write_bytes((folder / "last.ckpt").read_bytes())
    weights = load_file(folder / "last.safetensors")
    for name in stale:
        (folder / name).unlink()
        os.link(folder / "checkpoints" / f"step=00000002{Path(name).suffix}", folder / name)
    assert tiny_run(tmp_path, max_steps=4, checkpoint_every=2, recover=True).start() == 0
    assert_same_checkpoint(whole, folder / "last.ckpt")
    assert last_steps(folder) == {4}
    renewed = load_file(folder / "last.safetensors")
    assert renewed.keys() == weights.keys()
    assert all(torch.equal(renewed[key], weights[key]) for key in weights)


def test_a_run_with_no_step_left_writes_nothing(tmp_path: Path) -> None:
    tiny_run(tmp_path, max_steps=2).start()
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").glob("last.*")}
    assert tiny_run(tmp_path, max_steps=2, recover=True).start() == 0
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_a_checkpoint_of_another_folder_with_no_step_left_is_written_here(tmp_path: Path) -> None:
    tiny_run(tmp_path, max_steps=2).start()
    other = tiny_run(tmp_path, name="other", max_steps=2, ckpt_path=str(tmp_path / "run" / "last.ckpt"))
    assert other.start() == 0
    assert_same_checkpoint(tmp_path / "run" / "last.ckpt", tmp_path / "other" / "last.ckpt")
    assert last_steps(tmp_path / "other") == {2}


def test_what_the_disk_has_changed_is_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A disk that writes something else, once for `step=2` and once for its inference file."""
    settle = checksums._from_the_disk
    spoilt: list[str] = []

    def spoiling(path: Path) -> None:
        settle(path)
        name = f"{path.name[1:14]}{path.suffix}"
        if name in ("step=00000002.ckpt", "step=00000004.safetensors") and name not in spoilt:
            spoilt.append(name)
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            path.write_bytes(content)

    monkeypatch.setattr(checksums, "_from_the_disk", spoiling)
    run = tiny_run(tmp_path, max_steps=6, checkpoint_every=2, keep=1)
    assert run.start() == 0
    assert spoilt == ["step=00000002.ckpt", "step=00000004.safetensors"]
    assert caplog.text.count("differs from what was written") == 2
    names = {p.name for p in (tmp_path / "run" / "checkpoints").iterdir()}
    assert names == {"step=00000006.ckpt", "step=00000006.safetensors"}
    kinds = [e["kind"] for e in json.loads((tmp_path / "run" / "run.json").read_text())["incidents"]]
    assert kinds == ["checkpoint not written"] * 2


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_a_file_whose_end_the_disk_has_lost_is_noticed(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no archive any more: the run goes on, and the next checkpoint is written."""
    settle, spoilt = checksums._from_the_disk, []

    def spoiling(path: Path) -> None:
        settle(path)
        if "step=00000002" in path.name and path.suffix == suffix and not spoilt:
            spoilt.append(path)
            content = path.read_bytes()
            path.write_bytes(content[: -min(4096, len(content) // 2)])

    monkeypatch.setattr(checksums, "_from_the_disk", spoiling)
    run = tiny_run(tmp_path, max_steps=4, checkpoint_every=2)
    assert run.start() == 0
    assert spoilt
    names = {p.name for p in (tmp_path / "run" / "checkpoints").iterdir()}
    left = {"step=00000002.ckpt"} if suffix == ".safetensors" else set()
    assert names == {"step=00000004.ckpt", "step=00000004.safetensors"} | left
    (told,) = json.loads((tmp_path / "run" / "run.json").read_text())["incidents"]
    assert told["kind"] == "checkpoint not written"
    assert "cannot be read back" in told["text"]


def test_a_checkpoint_of_a_later_version_is_not_continued(tmp_path: Path) -> None:
    assert tiny_run(tmp_path, max_steps=1).start() == 0
    content = load_torch_file(tmp_path / "run" / "last.ckpt")
    content["stable_audio"]["format_version"] = 99
    torch.save(content, tmp_path / "later.ckpt")
    with pytest.raises(CheckpointError, match=r"written by a newer version \(format 99"):
        tiny_run(tmp_path, name="other", ckpt_path=str(tmp_path / "later.ckpt"))


def test_a_run_with_nothing_to_train_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert tiny_run(tmp_path, max_steps=2).start() == 0
    assert tiny_run(tmp_path, max_steps=1, recover=True).start() == 0
    assert "nothing is left to train: " in caplog.text
    assert "is of step 2, and the run ends with step 1 (--max-steps)" in caplog.text


def test_a_run_without_a_checkpoint_that_begins_anew_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.csv").write_text("step,train/loss\n1,0.5\n")
    tiny_run(tmp_path, max_steps=1, recover=True)
    assert "has no checkpoint to continue from (only metrics.csv): the run starts from" in caplog.text


def test_a_bit_that_memory_loses_is_noticed(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(50.0), "b": {"c": [torch.ones(3, dtype=torch.int8)], "d": torch.zeros(0)}}
    tensors["view"] = tensors["a"][3:9]  # type: ignore[index]
    checksums.save_torch_file(tensors, tmp_path / "x.ckpt")
    checksums.verify_torch_file(tensors, tmp_path / "x.ckpt")
    tensors["b"]["c"][0][1] = 2  # type: ignore[index]
    with pytest.raises(OSError, match="differs from what was written in 1 part, as"):
        checksums.verify_torch_file(tensors, tmp_path / "x.ckpt")


def test_an_old_checkpoint_stays_until_the_next_one_is_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    present: list[set[str]] = []
    verify = checkpoint_io.verify_torch_file

    def watched(content: Any, path: Path) -> None:
        present.append({p.name for p in path.parent.glob("step=*.ckpt")})
        verify(content, path)
        present.append({p.name for p in path.parent.glob("step=*.ckpt")})

    monkeypatch.setattr(checkpoint_io, "verify_torch_file", watched)
    assert tiny_run(tmp_path, max_steps=3, checkpoint_every=1, keep=1).start() == 0
    names = [{f"step={n:08d}.ckpt"} for n in (1, 2)]
    assert present == [set(), set(), names[0], names[0], names[1], names[1]]


def test_a_clock_that_jumps_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_run(tmp_path, name="whole", max_steps=6, checkpoint_every=2).start()
    run = tiny_run(tmp_path, name="jumps", max_steps=6, checkpoint_every=2)
    step, real, shift = run.module.training_step, time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: real() + shift[0])

    def jumping(*args: Any) -> Any:
        shift[0] = {2: -1e9, 4: 1e9}.get(run.module.position, shift[0])
        return step(*args)

    run.module.training_step = jumping  # type: ignore[method-assign]
    assert run.start() == 0
    assert_same_checkpoint(tmp_path / "whole" / "last.ckpt", tmp_path / "jumps" / "last.ckpt")
    # Files of a clock that was ahead: the newest step counts, not the newest file.
    folder = tmp_path / "jumps" / "checkpoints"
    for n in (2, 4, 6):
        os.utime(folder / f"step={n:08d}.ckpt", (2e9 - n, 2e9 - n))
    (tmp_path / "jumps" / "last.ckpt").unlink()
    again = tiny_run(tmp_path, name="jumps", max_steps=6, recover=True)
    assert again.resume == folder / "step=00000006.ckpt"


def test_a_folder_that_becomes_read_only_ends_nothing_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = tiny_run(tmp_path, max_steps=6, checkpoint_every=2)
    replace = os.replace

    def read_only(source: Any, target: Any) -> None:
        if run.module.position > 2:
            raise OSError(errno.EROFS, "Read-only file system", str(target))
        replace(source, target)

    step = run.module.training_step
    run.module.training_step = lambda *args: (run.io.writer.wait(), step(*args))[1]  # type: ignore
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", read_only)
        with pytest.raises(TrainingError, match=r"step=00000006\.ckpt.*Read-only file system"):
            run.start()
    assert caplog.text.count("earlier checkpoints are intact and training continues") == 2
    assert load_torch_file(tmp_path / "run" / "last.ckpt")["stable_audio"]["step"] == 2
    assert tiny_run(tmp_path, max_steps=6, recover=True).start() == 0
    tiny_run(tmp_path, name="whole", max_steps=6).start()
    assert_same_checkpoint(tmp_path / "whole" / "last.ckpt", tmp_path / "run" / "last.ckpt")


def test_weights_are_published_beside_checkpoints_that_are_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of DeepSpeed."""
    run = tiny_run(tmp_path, max_steps=4, checkpoint_every=2, keep=1)

    def save(target: Path, **options: Any) -> None:
        (target / "checkpoint").mkdir(parents=True)

    monkeypatch.setattr(run.trainer, "save_checkpoint", save)
    assert run.start() == 0
    folder = tmp_path / "run"
    names = {path.name for path in (folder / "checkpoints").iterdir()}
    assert names == {"step=00000004.ckpt", "step=00000004.safetensors"}
    assert (folder / "last.safetensors").samefile(folder / "checkpoints" / "step=00000004.safetensors")
    assert not (folder / "last.ckpt").exists()
    (folder / "last.ckpt").mkdir()  # as by the clock
    assert tiny_run(tmp_path, max_steps=4, overwrite=True).start() == 0
    assert (folder / "last.ckpt").is_file()
