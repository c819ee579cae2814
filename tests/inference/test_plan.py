"""Rendering as a library: no command line, no printing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stable_audio.checkpoints import export
from stable_audio.config import load_config
from stable_audio.factory import create_model_from_config
from stable_audio.inference import Sampling
from stable_audio.inference.rendering.jobs import Job, complete
from stable_audio.inference.rendering.load import load_render_model
from stable_audio.inference.rendering.plan import cautions, job_of, plan
from stable_audio.inference.rendering.recipe import read_recipe
from stable_audio.inference.rendering.render import OutputFiles, render
from stable_audio.inference.rendering.request import RenderRequest
from tests.inference import tiny


def test_files_are_rendered_and_rendered_again_without_a_command(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    values = tiny.config()
    weights = export(tiny.build(values), tmp_path / "model.safetensors", config=values)
    loaded = load_render_model(weights)
    sampling = Sampling(steps=2).resolved(loaded.model.objective)
    todo = plan(loaded, complete([Job({"prompt": "bell"})], loaded.model, first_seed=3), sampling=sampling)
    [first] = render(loaded.model, todo.jobs, todo.recipes, OutputFiles(tmp_path / "one"))
    recipe = read_recipe(first.path.with_suffix(".json"))
    again = plan(loaded, [job_of(recipe, "one")], sampling=sampling)
    assert again.recipes == todo.recipes
    [second] = render(loaded.model, again.jobs, again.recipes, OutputFiles(tmp_path / "two"))
    assert first.path.read_bytes() == second.path.read_bytes()
    assert capfd.readouterr() == ("", "")


def test_what_may_surprise_is_told_in_sentences() -> None:
    model = tiny.build(tiny.config())
    sampling = Sampling(cfg_scale=1.0).resolved(model.objective)
    job = Job({"prompt": "bell", "mood": "sad"}, negative={"prompt": "drum"}, seconds=2.0)
    found = "\n".join(cautions([job], model, sampling))
    assert "negative prompts have no effect" in found
    assert "does not read mood" in found
    assert "clips of 2 s, but the model was trained on 0.64 s" in found
    assert not list(cautions([Job({"prompt": "bell"}, seconds=0.5)], model, sampling))


def test_a_codec_is_refused(tmp_path: Path) -> None:
    config = load_config("model_configs/quickstart/autoencoder.json")
    model = create_model_from_config(config)
    weights = export(model, tmp_path / "codec.safetensors", config=config.as_dict())
    with pytest.raises(ValueError, match=r"codec.safetensors: holds a model of type autoencoder"):
        load_render_model(weights)


def test_a_request_renders_and_its_recipe_asks_for_the_same(tmp_path: Path) -> None:
    values = tiny.config()
    weights = export(tiny.build(values), tmp_path / "model.safetensors", config=values)
    asked = RenderRequest(checkpoint=weights, jobs=[Job({"prompt": "bell"})], sampling=Sampling(steps=2))
    [first] = asked.task(asked.load()).render(OutputFiles(tmp_path / "one"))
    again = RenderRequest.from_recipe(first.path.with_suffix(".json"))
    task = again.task(again.load())
    assert not list(task.cautions())
    [second] = task.render(OutputFiles(tmp_path / "two"))
    assert first.path.read_bytes() == second.path.read_bytes()
    other = export(tiny.build(values), tmp_path / "other.safetensors", config=values, dtype=torch.float16)
    moved = RenderRequest.from_recipe(first.path.with_suffix(".json"), checkpoint=other)
    [caution] = moved.task(moved.load()).cautions()
    assert caution == f"{other} is not the file that {first.path.with_suffix('.json')} was made with"
