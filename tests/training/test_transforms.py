"""What a run does to its model before it trains it: frozen parts, their precision, the record."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stable_audio.checkpoints import CheckpointError, load_model
from stable_audio.checkpoints.torch_file import load_torch_file
from stable_audio.config import ConfigError, load_config
from stable_audio.training.errors import TrainingError
from stable_audio.training.options import RunOptions
from stable_audio.training.starting.continued import continuing_model
from stable_audio.training.transforms import FOLD, transforms_for
from stable_audio.transforms.freezing import Freeze, frozen_parts
from tests.training.autoencoder import test_autoencoder as codecs
from tests.training.building import tiny_config, tiny_run

LAYER = "backbone.transformer.layers.0"


def freezing(**config: Any) -> dict[str, Any]:
    """A tiny config with the transform `freeze`."""
    return tiny_config(transforms=[{"type": "freeze", "config": config}])


def weights(path: Path) -> dict[str, Tensor]:
    return {k: v for k, v in load_torch_file(path)["state_dict"].items() if k.startswith("model.")}


def moved(run: Any, before: dict[str, Tensor]) -> set[str]:
    return {k for k, v in run.module.model.state_dict().items() if not torch.equal(v, before[k])}


@pytest.mark.parametrize(
    ("config", "trains"),
    [
        ({"frozen": ["conditioner", f"{LAYER}*"]}, lambda k: k.startswith("backbone") and LAYER not in k),
        ({"trained": [LAYER]}, lambda k: k.startswith(LAYER)),
        (
            {"trained": ["backbone"], "frozen": ["*.cross_attn"]},
            lambda k: k.startswith("backbone") and "cross_attn" not in k,
        ),
    ],
    ids=["frozen", "trained", "both"],
)
def test_a_run_trains_the_parts_that_are_not_frozen(
    tmp_path: Path, config: dict[str, Any], trains: Any
) -> None:
    run = tiny_run(tmp_path, freezing(**config), max_steps=2)
    before = copy.deepcopy(run.module.model.state_dict())
    trainable = {k for k, p in run.module.model.named_parameters() if p.requires_grad}
    assert trainable == {k for k, _ in run.module.model.named_parameters() if trains(k)}
    assert run.start() == 0
    changed = moved(run, before)
    assert changed
    assert changed <= trainable
    record = json.loads((tmp_path / "run" / "run.json").read_text())["starts"][0]
    assert record["transforms"] == [{"type": "freeze", "config": config}]
    assert record["frozen"] == frozen_parts(run.module.model)
    kept = {k.removeprefix("model.") for k in load_torch_file(tmp_path / "run/last.ckpt")["state_dict"]}
    assert all(torch.equal(before[k], run.module.model.state_dict()[k]) for k in kept - trainable)


def test_the_average_is_of_trained_weights_alone(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, freezing(trained=[f"{LAYER}.ff"]), max_steps=2)
    assert run.start() == 0
    parameters = dict(run.module.model.named_parameters())
    averaged = run.module.ema.average.keys() & parameters.keys()
    assert averaged == {k for k, p in parameters.items() if p.requires_grad}
    assert averaged


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_frozen_layers_are_held_in_less_and_give_their_rounded_output(tmp_path: Path, precision: str) -> None:
    config = freezing(frozen=[LAYER, "conditioner"], precision=precision)
    run = tiny_run(tmp_path, config, max_steps=2, name="low")
    model, dtype = run.module.model, getattr(torch, precision)
    layer = model.backbone.get_submodule("transformer.layers.0.self_attn.to_qkv")
    assert layer.weight.dtype is dtype
    assert model.dtype is torch.float32
    assert model.backbone.transformer.layers[1].self_attn.to_qkv.weight.dtype is torch.float32
    x = torch.randn(2, 5, 32)
    expected = torch.nn.functional.linear(x.to(dtype), layer.weight).float()
    assert layer(x).dtype is torch.float32
    assert torch.equal(layer(x), expected)
    assert run.start() == 0
    # What is loaded for use has the rounded values in the model's own type.
    loaded, _ = load_model(tmp_path / "low")
    stored = loaded.backbone.get_submodule("transformer.layers.0.self_attn.to_qkv").weight
    assert torch.equal(stored, layer.weight.float())


def test_pretransforms_keep_their_precision() -> None:
    from stable_audio.pretransforms.patched import PatchedPretransform

    model = torch.nn.Sequential(torch.nn.Linear(2, 2), PatchedPretransform(channels=1, patch_size=4))
    model[1].add_module("layer", torch.nn.Linear(2, 2).requires_grad_(False))
    Freeze(frozen=["0"], precision="bfloat16").apply(model)
    assert (model[0].weight.dtype, model[1].layer.weight.dtype) == (torch.bfloat16, torch.float32)


def test_a_layer_with_one_trained_weight_keeps_its_precision() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    Freeze(frozen=["0.weight", "1"], precision="bfloat16").apply(model)
    assert (model[0].weight.dtype, model[1].weight.dtype) == (torch.float32, torch.bfloat16)
    assert not model[0].weight.requires_grad
    assert model[0].bias.requires_grad


def test_a_run_with_frozen_layers_in_less_goes_on_exactly(tmp_path: Path) -> None:
    config = freezing(frozen=[LAYER], precision="bfloat16")
    assert tiny_run(tmp_path, config, name="whole", max_steps=4).start() == 0
    assert tiny_run(tmp_path, config, name="parts", max_steps=2).start() == 0
    assert tiny_run(tmp_path, config, name="parts", max_steps=4, recover=True).start() == 0
    whole, parts = (load_torch_file(tmp_path / n / "last.ckpt") for n in ("whole", "parts"))
    assert whole["stable_audio"]["transforms"] == parts["stable_audio"]["transforms"] != []
    assert all(torch.equal(v, parts["state_dict"][k]) for k, v in whole["state_dict"].items())
    averages = [c["stable_audio"]["ema"]["average"] for c in (whole, parts)]
    assert all(torch.equal(v, averages[1][k]) for k, v in averages[0].items())


def test_another_list_of_transforms_is_refused_when_a_run_goes_on(tmp_path: Path) -> None:
    assert tiny_run(tmp_path, freezing(frozen=[LAYER]), max_steps=1).start() == 0
    with pytest.raises(CheckpointError, match=r"\$\.training\.transforms"):
        tiny_run(tmp_path, tiny_config(), max_steps=2, recover=True)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"frozen": ["backbon"]}, r"freeze: frozen: found 'backbon', .* did you mean 'backbone'"),
        ({"trained": ["x.*"]}, r"freeze: trained: found 'x\.\*'"),
        ({"frozen": ["*"]}, "no parameter of DiffusionModel is trainable"),
    ],
)
def test_parts_that_are_not_there_are_named(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        tiny_run(tmp_path, freezing(**config), max_steps=1).start()


def test_mistakes_in_a_list_of_transforms_are_told_with_their_path() -> None:
    with pytest.raises(ConfigError, match=r"\$\.training\.transforms\[0\]\.config\.frosen.*frozen"):
        load_config(freezing(frosen=[]))
    with pytest.raises(ConfigError, match=r"\$\.training\.transforms\[0\]\.type.*freese"):
        load_config(tiny_config(transforms=[{"type": "freese"}]))


def test_what_flags_and_the_config_ask_for_stands_in_one_list() -> None:
    folding = RunOptions(remove_pretransform_weight_norm="post_load", compile=True)
    config = load_config(freezing(frozen=["conditioner"]))
    assert transforms_for(config, folding) == [
        FOLD,
        {"type": "freeze", "config": {"frozen": ["conditioner"]}},
    ]
    assert transforms_for(load_config(tiny_config()), RunOptions()) == []


def test_a_run_without_transforms_records_none(tmp_path: Path) -> None:
    assert tiny_run(tmp_path, max_steps=1).start() == 0
    record = json.loads((tmp_path / "run" / "run.json").read_text())["starts"][0]
    assert (record["transforms"], record["frozen"]) == ([], [])
    entry = load_torch_file(tmp_path / "run" / "last.ckpt")["stable_audio"]
    assert entry["format_version"] == 1
    assert not {"transforms", "base"} & set(entry)


def test_older_switches_are_recorded_and_applied_as_a_transform(tmp_path: Path) -> None:
    config = codecs.tiny_config({"spectral": codecs.SPECTRAL}, decoder_finetune=True, use_ema=True)
    run = tiny_run(tmp_path, config, max_steps=1)
    assert run.start() == 0
    frozen = {"type": "freeze", "config": {"frozen": ["encoder"]}}
    path = tmp_path / "run" / "last.ckpt"
    content = load_torch_file(path)
    assert content["stable_audio"]["transforms"] == [frozen]
    record = json.loads((tmp_path / "run" / "run.json").read_text())["starts"][0]
    assert (record["transforms"], record["frozen"]) == ([frozen], ["encoder"])
    assert set(run.module.ema.average) == {k for k in run.module.model.state_dict() if k[:8] == "decoder."}

    # The record freezes as well as the switch: it alone decides where a run goes on.
    loaded = load_config(config)
    plain = load_config(codecs.tiny_config({"spectral": codecs.SPECTRAL}))
    for model_config, entry in ((plain, content["stable_audio"]), (loaded, {"format_version": 1})):
        model = continuing_model(model_config, RunOptions(), path, {**content, "stable_audio": entry}).model
        assert frozen_parts(model) == ["encoder"]


def test_a_run_does_not_train_what_it_has_frozen(tmp_path: Path) -> None:
    losses = {"spectral": codecs.SPECTRAL}
    assert tiny_run(tmp_path, codecs.tiny_config(losses, decoder_finetune=True), max_steps=1).start() == 0
    with pytest.raises(CheckpointError, match=r"\$\.training\.decoder_finetune: true in the checkpoint"):
        tiny_run(tmp_path, codecs.tiny_config(losses), max_steps=2, recover=True)
