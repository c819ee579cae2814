"""Guidance from the command line and from lines of a file: it reaches recipe and repetition."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stable_audio.cli import main
from stable_audio.inference.rendering import batches as batches_module
from tests.inference import tiny


def _saved(folder: Path, **config: int) -> list[str]:
    values = tiny.config()
    values["model"]["diffusion"]["config"].update(config)
    weights, model_file = tiny.save(folder, values)
    return [str(weights), str(model_file)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def base(folder: Path) -> list[str]:
    weights, model_file = _saved(folder / "model")
    return ["generate", "--ckpt-path", weights, "--model-config", model_file, "--device", "cpu"]


@pytest.fixture(scope="module")
def weaker(folder: Path) -> Path:
    """A smaller model with its config beside it."""
    weights, model_file = _saved(folder / "weaker", embed_dim=16)
    beside = Path(weights).with_name("model_config.json")
    beside.write_text(Path(model_file).read_text())
    return Path(weights)


def _rendered(folder: Path) -> dict[str, Any]:
    return {
        json.loads(path.read_text())["recipe"]["conditioning"]["prompt"]: json.loads(path.read_text())[
            "recipe"
        ]
        for path in sorted(folder.glob("*.json"))
    }


FLAGS = [
    *["--cfg-scale", "3", "--cfg-schedule", "1:0,0.5:1", "--apg-momentum", "-0.5", "--zero-init", "0.1"],
    *["--negative-slot", "all", "--negative-condition", "seconds_total=0.1", "--negative-prompt", "wind"],
    *["--slot-scale", "cross_attn=5", "--guide-scale", "1.5", "--steps", "2"],
]


def test_flags_reach_the_recipe_which_renders_the_same_again(
    base: list[str], weaker: Path, tmp_path: Path, capsys
) -> None:
    out, again = tmp_path / "out", tmp_path / "again"
    guided = [*base, "--prompt", "bell", "--guide-ckpt-path", str(weaker), *FLAGS]
    assert main([*guided, "--out", str(out)]) == 0
    recipe = _rendered(out)["bell"]
    asked = {
        "cfg_scale": 3.0,
        "cfg_schedule": [[1.0, 0.0], [0.5, 1.0]],
        "apg_momentum": -0.5,
        "zero_init": 0.1,
        "negative_slots": ["all"],
        "slot_scales": {"cross_attn": 5.0},
        "guide_scale": 1.5,
    }
    assert {key: recipe["sampling"][key] for key in asked} == asked
    assert recipe["negative_conditioning"] == {"seconds_total": 0.1, "prompt": "wind"}
    assert recipe["guide"]["path"] == str(weaker)
    (made,) = out.glob("*.wav")
    assert main(["generate", "--from-json", str(made.with_suffix(".json")), "--out", str(again)]) == 0
    assert (again / made.name).read_bytes() == made.read_bytes()
    assert main([*guided, "--out", str(out)]) == 0
    assert "already there" in capsys.readouterr().out
    assert main([*base, "--prompt", "bell", "--steps", "2", "--out", str(out)]) == 0
    plain = json.loads(min(out.glob("*.json"), key=lambda p: "guide" in p.read_text()).read_text())["recipe"]
    assert "guide" not in plain
    assert not set(plain["sampling"]) & (set(asked) - {"cfg_scale"})


def test_clips_of_one_batch_have_weights_of_their_own(
    base: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [
        {"conditioning": {"prompt": prompt}, "seed": 4, "cfg_scale": scale, "steps": 2}
        for prompt, scale in (("bell", 2), ("drum", 5), ("wind", 1))
    ]
    prompts = tmp_path / "p.jsonl"
    prompts.write_text("\n".join(map(json.dumps, lines)))
    batches, generate = [], batches_module.undecoded

    def counted(model: Any, conditioning: Any, **keywords: Any) -> Any:
        batches.append(keywords["cfg_scale"])
        return generate(model, conditioning, **keywords)

    monkeypatch.setattr(batches_module, "undecoded", counted)
    command = [*base, "--prompts", str(prompts), "--batch-size", "4", "--out", str(tmp_path / "out")]
    assert main(command) == 0
    assert batches == [(2.0, 5.0), 1.0]
    recipes = _rendered(tmp_path / "out")
    assert {prompt: recipe["sampling"]["cfg_scale"] for prompt, recipe in recipes.items()} == {
        "bell": 2.0,
        "drum": 5.0,
        "wind": 1.0,
    }


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--guide-scale", "2"], "give one with --guide-ckpt-path"),
        (["--cfg-schedule", "1:0,x:1"], "points T:SHARE with commas such as 1:0,0.6:1; found '1:0,x:1'"),
        (["--cfg-schedule", "linea"], "unknown cfg_schedule 'linea'; did you mean 'linear'"),
        (["--slot-scale", "cross_attn=high"], "--slot-scale cross_attn needs a number, found 'high'"),
        (["--slot-scale", "text=2"], "no slot 'text'"),
        (["--negative-slot", "text"], "no slot 'text'"),
    ],
)
def test_mistakes_are_named(base: list[str], flags: list[str], message: str, tmp_path: Path, capsys) -> None:
    assert main([*base, "--prompt", "bell", *flags, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("out/*.wav"))


def test_a_guide_without_weight_or_of_other_latents_is_refused(
    base: list[str], weaker: Path, folder: Path, tmp_path: Path, capsys
) -> None:
    command = [*base, "--prompt", "bell", "--out", str(tmp_path), "--guide-ckpt-path"]
    assert main([*command, str(weaker)]) == 2
    assert "give --guide-scale" in capsys.readouterr().err
    other = tiny.config("v")
    weights, model_file = tiny.save(folder / "v", other)
    weights.with_name("model_config.json").write_text(model_file.read_text())
    assert main([*command, str(weights), "--guide-scale", "2"]) == 2
    assert "the objective of the model, which is rectified_flow; it has v" in capsys.readouterr().err


def test_lines_that_the_model_cannot_render_are_named_before_the_first_clip(
    base: list[str], tmp_path: Path, capsys
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(
        '{"prompt": "bell"}\n{"conditioning": {"prompt": "drum"}, "slot_scales": {"prepend": 2}}\n'
    )
    assert main([*base, "--prompts", str(prompts), "--steps", "2", "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert f"{prompts}, line 2: slot_scales: the model has no 'prepend'; slots that it uses: " in told
    prompts.write_text('{"conditioning": {"prompt": "drum"}, "seconds": 1e300}\n')
    assert main([*base, "--prompts", str(prompts), "--out", str(tmp_path / "out")]) == 2
    assert f"{prompts}, line 1: 1e+300 seconds are " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
