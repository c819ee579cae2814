"""Runs under kills at random moments, and what is told of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from scripts import soak
from tests.training.building import demo_section, tiny_config, tiny_run
from tests.training.same_runs import run_differences
from tests.training.started import Setting


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "seed"), [("32", 1), ("bf16", 4)])
def test_a_run_that_is_killed_once_is_the_unbroken_one(tmp_path: Path, precision: str, seed: int) -> None:
    runs = soak.soak([Setting(1, "auto", "file", precision)], tmp_path, kills=1, steps=8, seed=seed)
    assert soak.table(runs).endswith("1 kills, 0 differences"), soak.table(runs)


def test_settings_are_all_combinations_that_differ() -> None:
    found = [str(setting) for setting in soak.chosen_settings([1, 2], ["ddp", "fsdp"], ["file", "shards"])]
    assert found[:2] == ["1 x auto, file, 32", "1 x auto, shards, 32"]
    assert found[2:] == [
        "2 x ddp, file, 32",
        "2 x ddp, shards, 32",
        "2 x fsdp, file, 32",
        "2 x fsdp, shards, 32",
    ]


def test_whatever_differs_between_two_runs_is_named(tmp_path: Path) -> None:
    options = {"checkpoint_every": 2, "max_steps": 2}
    tiny_run(tmp_path, tiny_config(demo=demo_section()), name="one", **options).start()
    one, other = tmp_path / "one", tmp_path / "other"
    shutil.copytree(one, other)
    assert run_differences(one, other) == []
    rows = (other / "metrics.csv").read_text().splitlines(keepends=True)
    names, first = rows[0].split(","), rows[1].split(",")
    loss, speed = (names.index(name) for name in ("train/loss", "speed/steps_per_second"))
    expected = f"metrics.csv: step 1, train/loss: '{first[loss]}' and '7'"
    first[loss], first[speed] = "7", "9"
    (other / "metrics.csv").write_text("".join([rows[0], ",".join(first), rows[2]]))
    sound = next((other / "demos").rglob("*.wav")).relative_to(other)
    content = bytearray((other / sound).read_bytes())
    content[-1] ^= 1
    (other / sound).write_bytes(content)
    tiny_run(tmp_path, name="trained", max_steps=2, seed=1).start()
    shutil.copy(tmp_path / "trained" / "last.ckpt", other / "last.ckpt")
    (other / "last.safetensors").unlink()
    (other / "checkpoints" / ".a.partial.ckpt").touch()
    found = soak.differences(one, other)
    assert expected in found
    assert f"{sound}: other bytes" in found
    assert f"last.safetensors: in {one} only" in found
    assert any(text.startswith("last.ckpt: /state_dict/") for text in found)
    assert any(text.startswith("last.ckpt: /optimizer_states/0/") for text in found)
    assert any(text.endswith(".a.partial.ckpt is left") for text in found)
    assert not any("speed" in text for text in found)
    assert soak.differences(one, tmp_path / "nothing") == ["there is no run"]
