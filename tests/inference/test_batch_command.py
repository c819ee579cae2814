"""Batch work with `stable-audio generate`: grids, names of files, parts of a job."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import stable_audio.inference.rendering.batches as batches_module
from stable_audio.cli import main


@pytest.fixture
def base(files: tuple[Path, Path], tmp_path: Path) -> list[str]:
    weights, model_file = files
    return [
        *["generate", "--ckpt-path", str(weights), "--model-config", str(model_file)],
        *["--out", str(tmp_path / "out"), "--steps", "2", "--device", "cpu", "--seconds", "0.1"],
    ]


def _recipes(folder: Path) -> dict[str, dict[str, Any]]:
    """Name of the sound -> its recipe."""
    return {p.stem: json.loads(p.read_text())["recipe"] for p in sorted(folder.glob("*.json"))}


def test_a_grid_renders_every_combination(base: list[str], tmp_path: Path, capsys, monkeypatch) -> None:
    whole, sizes = batches_module.undecoded, []

    def counting(model: Any, items: Any, **settings: Any) -> Any:
        sizes.append((len(items), settings["sampling"].cfg_scale))
        return whole(model, items, **settings)

    monkeypatch.setattr(batches_module, "undecoded", counting)
    grid = ["--prompt", "bell", "--grid", "seed=3,4", "--grid", "cfg_scale=1,2.5"]
    name = ["--name", "{prompt}_{seed}_{cfg_scale}", "--batch-size", "4"]
    assert main([*base, *grid, *name]) == 0
    recipes = _recipes(tmp_path / "out")
    assert list(recipes) == ["bell_3_1", "bell_3_2.5", "bell_4_1", "bell_4_2.5"]
    for stem, recipe in recipes.items():
        assert stem == f"bell_{recipe['seed']}_{recipe['sampling']['cfg_scale']:g}"
    # Clips with the same settings are one batch, wherever they are in the grid.
    assert sizes == [(2, 1), (2, 2.5)]
    capsys.readouterr()
    assert main([*base, *grid, *name]) == 0
    assert "0 rendered, 4 already there" in capsys.readouterr().out


def test_a_clip_of_a_grid_is_the_clip_of_its_own_flags(base: list[str], tmp_path: Path) -> None:
    assert main([*base, "--prompt", "bell", "--grid", "sampler=euler,dpmpp", "--grid", "cfg_scale=3"]) == 0
    of_grid = {r["sampling"]["sampler"]: s for s, r in _recipes(tmp_path / "out").items()}
    base[base.index("--out") + 1] = str(tmp_path / "alone")
    assert main([*base, "--prompt", "bell", "--sampler", "dpmpp", "--cfg-scale", "3"]) == 0
    (alone,) = (tmp_path / "alone").glob("*.wav")
    assert alone.read_bytes() == (tmp_path / "out" / f"{of_grid['dpmpp']}.wav").read_bytes()
    # The digest is the same, too: the settings of a grid are not told from those of flags.
    assert alone.stem[-8:] == of_grid["dpmpp"][-8:]


def test_the_same_clip_is_rendered_once(base: list[str], tmp_path: Path, capsys) -> None:
    assert main([*base, "--prompt", "bell", "--grid", "seed=3,4", "--count", "2"]) == 0
    assert "1 clips are the same as others" in capsys.readouterr().err
    assert [r["seed"] for r in _recipes(tmp_path / "out").values()] == [3, 4, 5]


def test_a_name_of_another_clip_is_refused_before_anything_is_rendered(
    base: list[str], tmp_path: Path, capsys
) -> None:
    named = [*base, "--name", "{prompt}"]
    assert main([*named, "--prompt", "bell"]) == 0
    before = (tmp_path / "out" / "bell.wav").read_bytes()
    both = [*named, "--prompt", "drum", "--prompt", "bell"]
    assert main(both) == 2
    assert "bell.json: is of another clip, which would be lost" in capsys.readouterr().err
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["bell.json", "bell.wav"]
    assert (tmp_path / "out" / "bell.wav").read_bytes() == before
    assert main([*both, "--overwrite"]) == 0
    assert (tmp_path / "out" / "bell.wav").read_bytes() != before


def test_mistakes_of_all_clips_are_told_at_once(base: list[str], tmp_path: Path, capsys) -> None:
    path = tmp_path / "grid.jsonl"
    path.write_text('{"grid": {"steps": [0]}}\n{"conditioning": {}, "grid": {"seed": 2}}\n')
    assert main([*base, "--prompts", str(path), "--name", "{seed}"]) == 2
    told = capsys.readouterr().err
    assert "line 1: steps must be at least 1" in told
    assert "line 2: 'grid.seed' must be a list" in told
    assert not (tmp_path / "out").exists()
