"""`stable-audio adapter` on files: describe, merge, extract, convert."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio.adapters import (
    AdapterSpec,
    AdapterStack,
    BaseModel,
    Passport,
    read_adapter,
    with_adapters,
    write_adapter,
)
from stable_audio.checkpoints import load_model, read_checkpoint, save_inference_file
from stable_audio.cli import main
from stable_audio.inference.generation.generate import generate
from tests.inference import tiny
from tests.inference.test_adapters import adapter_at


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A model file with its config inside."""
    weights, model_file = tiny.save(tmp_path / "model", tiny.config())
    path = tmp_path / "base.safetensors"
    assert main(["export", str(weights), str(path), "--model-config", str(model_file)]) == 0
    return path


def latents(model: object, **settings: object) -> torch.Tensor:
    return generate(model, "bell", steps=2, cfg_scale=2.0, return_latents=True, **settings)  # type: ignore[arg-type]


def same_weights(first: Any, second: Any) -> None:
    """Bit for bit, with the adapters that the models have."""
    stacks = [AdapterStack(model.backbone, model.conditioner) for model in (first, second)]
    with torch.no_grad():
        for name, layer in stacks[0].layers.items():
            assert torch.equal(layer.weight, stacks[1].layers[name].weight), name


def test_info(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = adapter_at(tmp_path / "a.safetensors", "dora-rows", exclude=["conditioners"])
    capsys.readouterr()
    assert main(["adapter", "info", str(path), "--base", str(base), "--layers"]) == 0
    out = capsys.readouterr().out
    for part in ("type dora-rows, rank 2", "0 of the conditioner", "exclude: conditioners", "no passport"):
        assert part in out
    assert "fits the model" in out
    assert "model.transformer.layers.0.self_attn.to_qkv" in out
    assert main(["adapter", "info", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["adapter_type"] == "dora-rows"


def test_info_of_another_model(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = adapter_at(tmp_path / "a.safetensors")
    values = tiny.config()
    values["model"]["diffusion"]["config"]["embed_dim"] = 64
    weights, model_file = tiny.save(tmp_path / "other", values)
    model = ["--base", str(weights), "--model-config", str(model_file)]
    assert main(["adapter", "info", str(path), *model]) == 1
    assert "does not fit the model" in capsys.readouterr().out


def test_a_merged_file_needs_no_adapter(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = adapter_at(tmp_path / "a.safetensors")
    second = adapter_at(tmp_path / "b.safetensors", "dora-cols", 2)
    adapters = [f"{first}:0.7", f"{second}:1::to_qkv"]
    flags = [word for text in adapters for word in ("--adapter", text)]
    out = tmp_path / "merged.safetensors"
    assert main(["adapter", "merge", str(base), str(out), *flags]) == 0
    assert "2 adapters merged" in capsys.readouterr().out
    model, merged = load_model(base)[0], load_model(out)[0]
    same_weights(merged, with_adapters(model, [AdapterSpec.parse(text).use() for text in adapters]))
    assert main(["adapter", "merge", str(base), str(tmp_path / "m.ckpt"), *flags, "--layout", "sat"]) == 0
    same_weights(load_model(tmp_path / "m.ckpt")[0], merged)
    weighted = tmp_path / "weighted.safetensors"
    pair = ["--adapter", f"{first}:0.5", "--adapter", f"{first}:0.5", "--weighted"]
    assert main(["adapter", "merge", str(base), str(weighted), *pair]) == 0
    # W + 0.5 (W_1 - W) twice is W_1, rounded once more; sampled in float32 over a few layers.
    torch.testing.assert_close(
        latents(load_model(weighted)[0]), latents(model, adapters=str(first)), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("averaged", ["ema", "online"])
def test_a_merged_file_says_whether_the_weights_of_its_base_are_averaged(
    averaged: str, base: Path, tmp_path: Path
) -> None:
    model, config = load_model(base)
    labelled, out = tmp_path / "base.safetensors", tmp_path / "merged.safetensors"
    save_inference_file(labelled, model.state_dict(), config.as_dict(), weights=averaged)
    path = adapter_at(tmp_path / "a.safetensors")
    assert main(["adapter", "merge", str(labelled), str(out), "--adapter", str(path)]) == 0
    assert read_checkpoint(out).weights == averaged


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "no adapter to merge; name one or several with --adapter"),
        (["--adapter", "{}:1:0.5-1"], "--adapter {}: applies at noise levels from 0.5 to 1, but weights are"),
        (["--adapter", "{}:1:0.5-1"], "leave out LOW-HIGH"),
        (
            ["--weighted", "--adapter", "{}:1::to_qkv"],
            "--adapter {}: has the layer filter 'to_qkv', but --weighted",
        ),
        (["--adapter", "{}:1::to_qkvv"], "its layer filter (LAYERS of --adapter) has 'to_qkvv'"),
        (["--adapter", "nowhere.safetensors"], "nowhere.safetensors: no such file"),
    ],
)
def test_what_cannot_be_merged(
    options: list[str], message: str, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = adapter_at(tmp_path / "a.safetensors")
    out = tmp_path / "out.safetensors"
    assert main(["adapter", "merge", str(base), str(out), *(o.format(path) for o in options)]) == 2
    assert message.format(path) in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["merge", "no.ckpt", "a.ckpt"], "no adapter to merge; name one or several with --adapter"),
        (["merge", "no.ckpt", "a.pt", "--adapter", "b"], "a.pt: the name must end in .safetensors or .ckpt"),
        (["extract", "no.ckpt", "no.ckpt", "a.pt", "--rank", "2"], "a.pt: an adapter is written as .safet"),
        (
            ["extract", "no.ckpt", "no.ckpt", "a.ckpt", "--energy", "2"],
            "--energy must be above 0 and at most",
        ),
        (["convert", "no.ckpt", "a.pt"], "a.pt: an adapter is written as .safetensors or .ckpt"),
        (["convert", "no.ckpt", "a.ckpt", "--type", "dora-row"], "--type 'dora-row' is unknown"),
    ],
)
def test_flags_are_looked_at_before_files(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["adapter", *words]) == 2
    assert message in capsys.readouterr().err


def test_extraction_gives_back_what_was_merged(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = adapter_at(tmp_path / "a.safetensors")
    merged, out = tmp_path / "merged.safetensors", tmp_path / "again.ckpt"
    assert main(["adapter", "merge", str(base), str(merged), "--adapter", str(path)]) == 0
    assert main(["adapter", "extract", str(base), str(merged), str(out), "--rank", "2", "--layers"]) == 0
    assert "the adapter leaves out 0.00% of all changes" in capsys.readouterr().out
    model = load_model(base)[0]
    torch.testing.assert_close(
        latents(model, adapters=str(out)), latents(model, adapters=str(path)), rtol=1e-3, atol=1e-3
    )
    assert main(["adapter", "extract", str(base), str(merged), str(out), "--energy", "0.5"]) == 0
    assert read_adapter(out).settings.rank == 1
    assert main(["adapter", "extract", str(base), str(base), str(out), "--rank", "2"]) == 2
    assert "no layer that adapters change differs" in capsys.readouterr().err
    words = ["adapter", "extract", str(base), str(merged), str(out), "--rank", "2", "--include", "nothere"]
    assert main(words) == 2
    assert "include: 'nothere' is part of no layer's name" in capsys.readouterr().err


def test_conversion(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = adapter_at(tmp_path / "a.safetensors", "lora-xs")
    model = load_model(base)[0]
    before = latents(model, adapters=str(path))
    lora = tmp_path / "lora.ckpt"
    assert main(["adapter", "convert", str(path), str(lora), "--type", "lora", "--base", str(base)]) == 0
    assert "lora of rank 2, the same at every strength" in capsys.readouterr().out
    torch.testing.assert_close(latents(model, adapters=str(lora)), before, rtol=1e-4, atol=1e-4)
    words = ["--layout", "peft", "--base", str(base), "--root", "model"]
    assert main(["adapter", "convert", str(lora), str(tmp_path / "peft"), *words]) == 0
    back = tmp_path / "back.ckpt"
    assert main(["adapter", "convert", str(tmp_path / "peft"), str(back)]) == 0
    torch.testing.assert_close(latents(model, adapters=str(back)), before, rtol=1e-4, atol=1e-4)


def test_values_beyond_float16_are_written_as_ckpt_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = read_adapter(adapter_at(tmp_path / "a.safetensors"))
    layers = {name: {**t, "lora_B": t["lora_B"] + 1e5} for name, t in first.layers.items()}
    source, out = tmp_path / "a.ckpt", tmp_path / "b.safetensors"
    write_adapter(source, replace(first, layers=layers))
    assert main(["adapter", "convert", str(source), str(out)]) == 2
    error = capsys.readouterr().err
    assert f"{out}: " in error
    assert "adapter is float16, up to 65504; write it as .ckpt" in error
    assert not out.exists()
    assert main(["adapter", "convert", str(source), str(tmp_path / "b.ckpt")]) == 0


def test_conversion_refuses_another_model(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = adapter_at(tmp_path / "a.safetensors", "lora-xs"), tmp_path / "lora.ckpt"
    trained_on = BaseModel(name="large.safetensors", path="large.safetensors", hash="ab" * 32)
    write_adapter(path, replace(read_adapter(path), passport=Passport(base=trained_on)))
    words = ["adapter", "convert", str(path), str(out), "--type", "lora", "--base", str(base)]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "large.safetensors" in error
    assert base.name in error
    assert not out.exists()
    assert main([*words, "--any-base"]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--type", "lora"], "name the model with --base"),
        (["--type", "loha", "--base", "{base}"], "type 'loha' is unknown"),
        (["--type", "lora", "--base", "{base}"], "no 'lora' of rank 2 gives the weights"),
        (["--layout", "peft"], "name the model with --base"),
        (["--layout", "peft", "--base", "{base}"], "changes the conditioner, too"),
        (["--layout", "diffusers", "--base", "{base}"], "changes the conditioner"),
    ],
)
def test_what_cannot_be_converted(
    options: list[str], message: str, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = adapter_at(tmp_path / "a.safetensors", "dora-rows")
    out = tmp_path / "out.safetensors"
    words = [o.format(base=base) for o in options]
    assert main(["adapter", "convert", str(path), str(out), *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not out.exists()
