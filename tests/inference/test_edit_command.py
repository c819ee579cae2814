"""Editing from the command line and from lines of files, and again from recipes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio.audio.io import read_audio, save_audio
from stable_audio.cli import main
from stable_audio.inference.rendering.edits import Edit, edited
from stable_audio.inference.rendering.jobs import Job
from tests.inference import tiny


@pytest.fixture
def base(files: tuple[Path, Path], tmp_path: Path) -> list[str]:
    weights, model_file = files
    command = ["generate", "--ckpt-path", str(weights), "--model-config", str(model_file), "--steps", "2"]
    return [*command, "--device", "cpu", "--out", str(tmp_path / "out")]


@pytest.fixture
def take(tmp_path: Path) -> Path:
    """Half a second in 16 bits."""
    path = tmp_path / "take.wav"
    save_audio(path, 0.5 * torch.sin(torch.arange(500) * 0.1)[None], tiny.RATE)
    return path


def _clips(folder: Path) -> list[tuple[torch.Tensor, dict[str, Any]]]:
    made = sorted((folder / "out").glob("*.wav"))
    return [(read_audio(p)[0], json.loads(p.with_suffix(".json").read_text())["recipe"]) for p in made]


def _again(base: list[str], folder: Path) -> torch.Tensor:
    """The only clip of `folder`, rendered from its recipe."""
    (recipe,) = (folder / "out").glob("*.json")
    weights = base[base.index("--ckpt-path") + 1]
    command = ["generate", "--ckpt-path", weights, "--from-json", str(recipe), "--device", "cpu"]
    assert main([*command, "--out", str(folder / "again")]) == 0
    (made,) = (folder / "again").glob("*.wav")
    assert (
        json.loads(made.with_suffix(".json").read_text())["digest"]
        == json.loads(recipe.read_text())["digest"]
    )
    return read_audio(made)[0]


@pytest.mark.parametrize("regions", [["0.1:0.2,0.3:0.35"], ["0.1:0.2", "0.3:0.35"]])
def test_the_file_holds_the_samples_of_the_take_but_for_the_parts(
    base: list[str], take: Path, tmp_path: Path, regions: list[str]
) -> None:
    arguments = ["--prompt", "bell", "--inpaint-audio", str(take), "--seconds", "0.5", "--inpaint", *regions]
    assert main([*base, *arguments, "--inpaint-repeats", "2"]) == 0
    ((sound, recipe),) = _clips(tmp_path)
    original, _ = read_audio(take)
    new = torch.zeros(500, dtype=torch.bool)
    new[100:200] = new[300:350] = True
    assert torch.equal(sound[:, ~new], original[:, ~new])
    assert not torch.equal(sound[:, new], original[:, new])
    assert recipe["inpaint_seconds"] == [[0.1, 0.2], [0.3, 0.35]]
    assert recipe["inpaint_exact"] is True
    assert recipe["inpaint_repeats"] == 2
    assert torch.equal(_again(base, tmp_path), sound)


def test_a_take_goes_on_beyond_the_length_of_training(
    base: list[str], take: Path, tmp_path: Path, capsys
) -> None:
    arguments = ["--prompt", "bell", "--inpaint-audio", str(take), "--extend", "0.7"]
    assert main([*base, *arguments, "--window"]) == 0
    ((sound, recipe),) = _clips(tmp_path)
    assert sound.shape == (1, 1200)
    assert torch.equal(sound[:, :500], read_audio(take)[0])
    assert recipe["inpaint_seconds"] == [[0.5, 1.2]]
    assert recipe["window_seconds"] == 0
    assert recipe["conditioning"]["seconds_total"] == 0.64  # that of a window
    assert "expect worse sound" not in capsys.readouterr().err
    assert torch.equal(_again(base, tmp_path), sound)


def test_a_loop_of_bars(base: list[str], tmp_path: Path) -> None:
    assert main([*base, "--prompt", "bell", "--loop", "--bpm", "437", "--bars", "1", "--beats", "3"]) == 0
    ((sound, recipe),) = _clips(tmp_path)
    assert sound.shape[-1] == round(3 * 60_000 / 437)
    assert recipe["loop"] is True
    assert torch.equal(_again(base, tmp_path), sound)


def test_a_way_between_prompts_and_seeds(base: list[str], tmp_path: Path) -> None:
    way = ["--to-prompt", "drum", "--to-seed", "9", "--grid", "mix=0,0.5,1", "--name", "{index}"]
    assert main([*base, "--prompt", "bell", "--seed", "5", *way]) == 0
    assert main([*base, "--prompt", "bell", "--seed", "5", "--name", "start"]) == 0
    assert main([*base, "--prompt", "drum", "--seed", "9", "--name", "target"]) == 0
    first, middle, last, start, target = (sound for sound, _ in _clips(tmp_path))
    assert torch.allclose(first, start, atol=1e-4)  # 16 bits
    assert torch.allclose(last, target, atol=1e-4)
    assert not torch.allclose(middle, start, atol=1e-2)
    recipes = [recipe for _, recipe in _clips(tmp_path)]
    assert [r.get("mix") for r in recipes] == [0.0, 0.5, 1.0, None, None]
    assert recipes[0]["to_conditioning"] == {"prompt": "drum"}
    assert [r["seed"] for r in recipes] == [5, 5, 5, 5, 9]


def test_lines_of_a_file_have_their_own_edits(base: list[str], take: Path, tmp_path: Path) -> None:
    lines = [
        {
            "conditioning": {"prompt": "bell"},
            "inpaint_audio": str(take),
            "inpaint": [[0.1, 0.2]],
            "seconds": 0.5,
        },
        {"conditioning": {"prompt": "bell"}, "loop": True, "bars": 1, "bpm": 600},
        {"conditioning": {"prompt": "bell"}, "seconds": 0.2, "short": True},
        {"conditioning": {"prompt": "bell"}, "init_audio": str(take), "inversion_steps": 2, "seconds": 0.5}
        | {"init_conditioning": {"prompt": "drum"}, "init_noise_level": 0.9},
    ]
    prompts = tmp_path / "edits.jsonl"
    prompts.write_text("\n".join(map(json.dumps, lines)))
    assert main([*base, "--prompts", str(prompts)]) == 0
    (part, first), (loop, _), (short, third), (inverted, last) = _clips(tmp_path)
    assert torch.equal(part[:, 200:500], read_audio(take)[0][:, 200:])
    assert first["inpaint_exact"] is True
    assert loop.shape[-1] == 400
    assert (short.shape[-1], third["sample_size"]) == (200, 200)
    assert inverted.shape[-1] == 500
    assert (last["inversion_steps"], last["init_conditioning"]) == (2, {"prompt": "drum"})
    assert last["init_noise_level"] == 0.9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--inpaint", "0.1:0.2"], "--inpaint needs --inpaint-audio"),
        (["--extend", "1"], "--extend needs --inpaint-audio"),
        (["--inpaint-audio", "TAKE", "--extend", "-1"], "--extend must be above 0 seconds"),
        (["--inpaint-audio", "TAKE", "--extend", "1", "--seconds", "2"], "extend gives the length"),
        (["--inpaint-audio", "TAKE", "--inpaint", "0.1-0.2"], "a region is START:END in seconds"),
        (["--inpaint-audio", "TAKE", "--inpaint", "0.3:0.2"], "0 <= START < END"),
        (["--bars", "4"], "both bars and bpm"),
        (["--bars", "4", "--bpm", "120", "--seconds", "1"], "leave one out"),
        (["--mix", "0.5"], "mix needs to_conditioning or to_seeds"),
        (["--to-seed", "3"], "need mix, 0 to 1"),
        (["--inversion-steps", "4"], "--inversion-steps needs --init-audio"),
        (["--init-audio", "TAKE", "--init-prompt", "drum"], "needs --inversion-steps"),
        (["--init-audio", "TAKE", "--init-noise-level", "0"], "--init-noise-level must be above 0"),
        (["--init-audio", "TAKE", "--inversion-steps", "-1"], "--inversion-steps must be at least 0"),
        (["--inpaint-audio", "TAKE"], "--inpaint-audio needs --inpaint or --extend"),
        (
            ["--inpaint-audio", "TAKE", "--extend", "1", "--inpaint-repeats", "0"],
            "--inpaint-repeats must be at",
        ),
        (["--to-seed", "-3", "--mix", "0.5"], "--to-seed must be at least 0, found -3"),
        (["--window", "-1"], "--window must be at least 0"),
    ],
)
def test_mistakes_are_told_before_anything_is_rendered(
    base: list[str], take: Path, tmp_path: Path, capsys, arguments: list[str], message: str
) -> None:
    named = [str(take) if a == "TAKE" else a for a in arguments]
    assert main([*base, "--prompt", "bell", *named]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("out/*.wav"))


def test_every_line_with_a_mistake_is_named() -> None:
    jobs = [
        Job({}, edit={"inpaint": "3"}, source="a.jsonl, line 1"),
        Job({}, edit={"loop": True}, source="a.jsonl, line 2"),
        Job({}, edit={"mix": 0.5}, source="a.jsonl, line 3"),
    ]
    with pytest.raises(ValueError, match=r"a\.jsonl, line 1: .*\n.*a\.jsonl, line 3: "):
        edited(jobs, Edit())
    (loop,) = edited(jobs[1:2], Edit(bars=2, bpm=120))
    assert loop.steering.loop
    assert loop.seconds is not None
    assert math.isclose(loop.seconds, 4.0)


def test_a_line_is_told_of_its_own_keys(base: list[str], tmp_path: Path, capsys) -> None:
    lines = tmp_path / "lines.jsonl"
    lines.write_text('{"conditioning": {"prompt": "bell"}, "inpaint": "0.1:0.2"}\n')
    assert main([*base, "--prompts", str(lines)]) == 2
    error = capsys.readouterr().err
    assert f"{lines}, line 1: 'inpaint' needs 'inpaint_audio'" in error
    assert "--inpaint" not in error
    lines.write_text('{"conditioning": {"prompt": "bell"}, "window_seconds": -1}\n')
    assert main([*base, "--prompts", str(lines)]) == 2
    assert f"{lines}, line 1: 'window_seconds' must be at least 0, found -1" in capsys.readouterr().err
