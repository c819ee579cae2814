"""Generation with adapters: as an argument, on the command line, in job files and in recipes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio.adapters import (
    AdapterError,
    AdapterSettings,
    AdapterSpec,
    AdapterStack,
    AdapterUse,
    BaseModel,
    Passport,
    base_hash,
    read_adapter,
    write_adapter,
)
from stable_audio.adapters import base as base_module
from stable_audio.audio.io import read_audio
from stable_audio.checkpoints import load_model
from stable_audio.cli import main
from stable_audio.inference.generation.generate import generate
from stable_audio.inference.rendering.jobs import Job
from stable_audio.inference.rendering.recipe import AdapterFile
from stable_audio.inference.rendering.request import RenderRequest
from tests.inference import tiny
from tests.inference.test_jobs import _recipe as some_recipe


def adapter_at(path: Path, kind: str = "lora", seed: int = 1, **settings: Any) -> Path:
    """The file of an adapter of the tiny model, with an effect."""
    model = tiny.build(tiny.config())
    stack = AdapterStack(model.backbone, model.conditioner)
    index = stack.add(AdapterSettings(rank=2, adapter_type=kind, **settings))
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in stack.parameters(index):
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=noise))
    write_adapter(path, stack.adapter(index))
    return path


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    weights, model_file = tiny.save(tmp_path / "model", tiny.config())
    model = ["--ckpt-path", str(weights), "--model-config", str(model_file)]
    return ["generate", *model, "--steps", "2", "--device", "cpu", "--subtype", "FLOAT"]


def rendered(command: list[str], out: Path, *arguments: str) -> list[Path]:
    assert main([*command, "--out", str(out), *arguments]) == 0
    return sorted(out.glob("*.wav"))


def sound(path: Path) -> torch.Tensor:
    return read_audio(path)[0]


def recipe(path: Path) -> dict[str, Any]:
    return json.loads(path.with_suffix(".json").read_text())["recipe"]


def test_generate_takes_files_specs_and_objects(tmp_path: Path) -> None:
    model = tiny.build(tiny.config())
    path = adapter_at(tmp_path / "a.safetensors")

    def latents(*adapters: Any) -> torch.Tensor:
        return generate(model, "bell", steps=2, return_latents=True, adapters=adapters)

    base, changed = latents(), latents(path)
    assert not torch.allclose(changed, base, atol=1e-3)
    use = AdapterSpec(str(path)).use()
    for same in (str(path), f"{path}:1:0-1", AdapterSpec(str(path)), use):
        assert torch.equal(latents(same), changed)
    assert torch.equal(latents(f"{path}:0"), base)
    half = AdapterUse(adapter=use.adapter, strength=0.5)
    assert torch.equal(latents(f"{path}:0.5"), latents(half))
    assert torch.equal(latents(), base), "the model itself stays as it is"
    assert torch.equal(generate(model, "bell", steps=2, return_latents=True, adapters=str(path)), changed)


def test_the_command_line_renders_with_adapters_and_so_does_its_recipe(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (
        adapter_at(tmp_path / f"{kind}.safetensors", kind, i) for i, kind in enumerate(["lora", "bora"])
    )
    (plain,) = rendered(command, tmp_path / "plain", "--prompt", "bell")
    assert "adapters" not in recipe(plain)
    options = ["--adapter", f"{first}:0.8", "--adapter", f"{second}::0.3-1:to_qkv"]
    (made,) = rendered(command, tmp_path / "out", "--prompt", "bell", *options)
    assert not torch.allclose(sound(made), sound(plain), atol=1e-3)
    stored = recipe(made)["adapters"]
    assert [(a["path"], a["strength"], a["interval"], a["layer_filter"]) for a in stored] == [
        (str(first), 0.8, [0.0, 1.0], ""),
        (str(second), 1.0, [0.3, 1.0], "to_qkv"),
    ]
    again = ["generate", "--from-json", str(made.with_suffix(".json")), "--subtype", "FLOAT"]
    (same,) = rendered(again, tmp_path / "again")
    assert same.name == made.name
    assert torch.equal(sound(same), sound(made))
    # The files may have moved; one that has changed is told.
    first.rename(tmp_path / "moved.safetensors")
    assert main([*again, "--out", str(tmp_path / "x"), "--adapter", str(second)]) == 2
    assert "was made with 2 adapters, found 1" in capsys.readouterr().err
    moved = ["--adapter", str(tmp_path / "moved.safetensors"), "--adapter", str(second)]
    (third,) = rendered(again, tmp_path / "moved", *moved)
    assert torch.equal(sound(third), sound(made))
    adapter_at(second, "bora", 9)
    rendered(again, tmp_path / "changed", *moved)
    assert f"{second} is not the adapter that" in capsys.readouterr().err


def test_clips_of_a_job_file_have_their_own_adapters(command: list[str], tmp_path: Path) -> None:
    path = adapter_at(tmp_path / "a.safetensors")
    clip = {"conditioning": {"prompt": "bell"}, "seed": 3}
    lines = [clip, {**clip, "adapters": []}, {**clip, "adapters": [f"{path}:0.5"]}]
    jobs = tmp_path / "jobs.jsonl"
    jobs.write_text("\n".join(map(json.dumps, lines)))
    whole, none, half = map(
        sound, rendered(command, tmp_path / "out", "--prompts", str(jobs), "--adapter", str(path))
    )
    alone = ["--prompt", "bell", "--seed", "3"]
    assert torch.equal(none, sound(rendered(command, tmp_path / "base", *alone)[0]))
    assert torch.equal(whole, sound(rendered(command, tmp_path / "whole", *alone, "--adapter", str(path))[0]))
    assert not torch.equal(half, whole)
    # In one batch, too, where the clips with other adapters are a batch of their own.
    batch = ["--prompts", str(jobs), "--adapter", str(path), "--batch-size", "3"]
    for one, other in zip(rendered(command, tmp_path / "batch", *batch), (whole, none, half)):
        torch.testing.assert_close(sound(one), other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("adapters", ["a.st", [1], [""], ["a:1:1-0"]])
def test_adapters_of_a_job_that_are_none(
    adapters: Any, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = tmp_path / "jobs.jsonl"
    jobs.write_text(json.dumps({"conditioning": {"prompt": "bell"}, "adapters": adapters}))
    assert main([*command, "--prompts", str(jobs)]) == 2
    assert f"{jobs}, line 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--adapter", "nowhere.safetensors"], "nowhere.safetensors: no such file"),
        (["--adapter", "a:1:0.9-0.1"], "interval must be"),
        (["--adapter", "a.safetensors", "--dtype", "int8"], "int8 weights take no adapters"),
        (["--adapter", "a.safetensors", "--dtype", "int4"], "int4 weights take no adapters"),
    ],
)
def test_what_cannot_be_rendered_is_told_in_one_sentence(
    arguments: list[str],
    message: str,
    command: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*command, "--out", str(tmp_path / "out"), "--prompt", "bell", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not list((tmp_path / "out").glob("*.wav"))


@pytest.mark.parametrize("of_the_jobs", [False, True], ids=["flag", "jobs"])
def test_a_layer_filter_that_names_no_layer_is_told_before_the_first_clip(
    of_the_jobs: bool, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = f"{adapter_at(tmp_path / 'a.safetensors')}:1::to_qkvv"
    jobs = tmp_path / "jobs.jsonl"
    lines = [{"conditioning": {"prompt": "bell"}, "adapters": adapters} for adapters in ([], [text])]
    jobs.write_text("\n".join(map(json.dumps, lines)))
    words = ["--prompts", str(jobs)] if of_the_jobs else ["--prompt", "bell", "--adapter", text]
    assert main([*command, "--out", str(tmp_path / "out"), *words]) == 2
    error = capsys.readouterr().err
    assert "a.safetensors: its layer filter (LAYERS of --adapter) has 'to_qkvv'" in error
    assert "(13 more), and numbers are given as in layers.[0-11]" in error
    assert not list(tmp_path.rglob("*.wav"))
    with pytest.raises(AdapterError, match=r"its layer filter .* has 'to_qkvv'"):
        generate(tiny.build(tiny.config()), "bell", steps=1, adapters=[text])


def test_an_adapter_of_another_model_needs_a_word(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.safetensors"
    adapter = read_adapter(adapter_at(path))
    base = BaseModel(name="other.safetensors", path="/other.safetensors", hash="0" * 64)
    write_adapter(path, replace(adapter, passport=Passport(base=base)))
    arguments = ["--prompt", "bell", "--dtype", "bfloat16", "--adapter", str(path)]
    assert main([*command, "--out", str(tmp_path / "out"), *arguments]) == 2
    assert "was trained on other.safetensors" in capsys.readouterr().err
    (made,) = rendered(command, tmp_path / "out", *arguments, "--any-base")
    # The model's own hash is that of its weights before they are held in bfloat16.
    own = BaseModel(name="tiny", path="tiny", hash=base_hash(tiny.build(tiny.config())))
    write_adapter(path, replace(adapter, passport=Passport(base=own)))
    (same,) = rendered(command, tmp_path / "own", *arguments)
    assert torch.equal(sound(made), sound(same))


def _trained_on(path: Path, name: str, value: str) -> str:
    """The file of an adapter that says that it was trained on a model with a hash."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        adapter = read_adapter(adapter_at(path))
    base = BaseModel(name=name, path=f"/{name}", hash=value)
    write_adapter(path, replace(adapter, passport=Passport(base=base)))
    return str(path)


def test_generate_refuses_adapters_of_another_model(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = load_model(command[2], config=command[4])[0]
    hashed: list[Any] = []
    monkeypatch.setattr(base_module, "base_hash", lambda model: hashed.append(model) or base_hash(model))
    own = _trained_on(tmp_path / "own.safetensors", "tiny.safetensors", base_hash(model))
    other = _trained_on(tmp_path / "a.safetensors", "other.safetensors", "0" * 64)

    def latents(*adapters: str, **arguments: Any) -> torch.Tensor:
        return generate(model, "bell", steps=1, return_latents=True, adapters=adapters, **arguments)

    with pytest.raises(AdapterError, match=r"other\.safetensors .* but this model is tiny\.safetensors"):
        latents(own, other)
    expected = latents(other, any_base=True)
    assert torch.equal(latents(own), expected)
    assert len(hashed) == 1, "hashed once"
    with torch.no_grad():
        next(model.backbone.parameters()).mul_(2)
    with pytest.raises(AdapterError, match=r"trained on tiny\.safetensors .* but this model is tiny"):
        latents(own)
    assert len(hashed) == 2, "and again when the weights have changed"
    # In bfloat16 the hash is that of other weights, which says nothing.
    model.backbone.to(torch.bfloat16)
    latents(own)
    assert "(not certain: weights in fewer bits have other hashes)" in caplog.text


def test_digests_follow_adapters_but_not_their_paths(tmp_path: Path) -> None:
    def digest(*adapters: AdapterFile) -> str:
        return some_recipe(tmp_path, adapters=list(adapters) or None).digest()

    def file(**changes: Any) -> AdapterFile:
        values: dict[str, Any] = {"path": "a", "digest": "1", "strength": 1.0}
        return AdapterFile(**{**values, "interval": [0.0, 1.0], "layer_filter": "", **changes})

    assert digest(file(path="b")) == digest(file())
    changes = [{"digest": "2"}, {"strength": 0.5}, {"interval": [0.0, 0.5]}, {"layer_filter": "x"}]
    digests = [digest(), digest(file()), digest(file(), file()), *(digest(file(**c)) for c in changes)]
    assert len({*digests}) == len(digests)


def test_the_digest_of_a_recipe_without_adapters_is_that_of_earlier_versions(tmp_path: Path) -> None:
    # Computed before recipes had adapters.
    assert some_recipe(tmp_path).digest() == "f79033a10581ae7d"


def test_an_absent_adapter_is_told_before_the_model_is_loaded(tmp_path: Path) -> None:
    absent = tmp_path / "absent.safetensors"
    with pytest.raises(AdapterError, match=r"absent\.safetensors: no such file"):
        RenderRequest(checkpoint="no.safetensors", jobs=[Job({})], adapters=[AdapterSpec(str(absent))])
