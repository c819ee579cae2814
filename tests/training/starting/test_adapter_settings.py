"""Adapters train with every backbone and with the other settings of a run, and such runs go on exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stable_audio.adapters import read_adapter
from stable_audio.checkpoints import export
from stable_audio.checkpoints.torch_file import load_torch_file
from stable_audio.config import load_config
from stable_audio.factory import create_model_from_config
from tests import tiny
from tests.training.building import tiny_config, tiny_run
from tests.training.devices.test_compiling import graphs as graphs
from tests.training.diffusion.test_packing import _latents
from tests.training.saving.test_resume import assert_same_checkpoint
from tests.training.starting.test_adapters import assert_equal, merged_by_hand, state

LORA = {"rank": 2, "adapter_type": "dora-rows"}
SLOTS = {
    "cross_attn": "cross_attention_cond_ids",
    "global": "global_cond_ids",
    "prepend": "prepend_cond_ids",
}
BACKBONES: dict[str, tuple[dict[str, Any], list[str]]] = {
    # name in stable_audio.backbones.BACKBONES: constructor keywords and the slots that are conditioned
    "dit": (
        {
            "io_channels": 2,
            "embed_dim": 8,
            "depth": 2,
            "num_heads": 2,
            "cond_token_dim": 4,
            "global_cond_dim": 4,
        },
        ["cross_attn", "global"],
    ),
    "DAU1d": ({k: v for k, v in tiny.BACKBONES["DAU1d"].items() if k != "cond_dim"}, ["global"]),
    "adp_cfg_1d": (
        {
            k: v
            for k, v in {**tiny.BACKBONES["adp_cfg_1d"], "context_embedding_features": 4}.items()
            if not k.startswith("context_") or "embedding" in k
        },
        ["cross_attn"],
    ),
    "adp_1d": (
        {k: v for k, v in tiny.BACKBONES["adp_1d"].items() if k != "context_channels"},
        ["global"],
    ),
    "unet": (
        {
            **{k: v for k, v in tiny.BACKBONES["unet"].items() if k not in ("prepend", "input_concat")},
            "cross_attn": {"dim": 4},
        },
        ["cross_attn", "global"],
    ),
}


def model_of(name: str) -> dict[str, Any]:
    """A whole model with a backbone, on patches of two samples."""
    config, slots = BACKBONES[name]
    settings = tiny_config()
    settings["sample_size"] = 128
    settings["model"] = {
        **settings["model"],
        "io_channels": 2,
        "pretransform": {"type": "patched", "config": {"channels": 1, "patch_size": 2}},
        "diffusion": {
            "type": name,
            "diffusion_objective": "rectified_flow",
            "config": config,
            **{SLOTS[slot]: ["seconds_total"] for slot in slots},
        },
        "conditioning": {**settings["model"]["conditioning"], "cond_dim": 4},
    }
    return settings


def stored(folder: Path, config: dict[str, Any]) -> str:
    """A model none of whose layers is 0."""
    torch.manual_seed(7)
    model = create_model_from_config(load_config(config))
    for parameter in model.parameters():
        if not bool(parameter.any()):
            torch.nn.init.normal_(parameter, std=0.1)
    return str(export(model, folder / "base.safetensors", config=config))


def tuned(config: dict[str, Any], **training: Any) -> dict[str, Any]:
    """The config of a run that trains an adapter of the model of `config`."""
    section = {"learning_rate": 1e-2, "lora_config": LORA, "cfg_dropout_prob": 0.5, **training}
    return {**config, "training": section}


def runs_equal(folder: Path, settings: dict[str, Any], other: dict[str, Any], **options: Any) -> Path:
    """A whole run and one of `other` that is stopped and continued end alike; the folder of the latter."""
    options = {"demos": False, **options}
    tiny_run(folder, settings, name="whole", **options).start()
    tiny_run(folder, other, name="parts", **{**options, "max_steps": 2}).start()
    tiny_run(folder, other, name="parts", recover=True, **options).start()
    assert_same_checkpoint(folder / "whole" / "last.ckpt", folder / "parts" / "last.ckpt")
    return folder / "parts"


def moved(folder: Path) -> list[str]:
    """Names of the layers whose low-rank term has left 0."""
    layers = read_adapter(folder).layers
    return [name for name, tensors in layers.items() if bool(tensors["lora_B"].any())]


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONES)
def test_adapters_of_every_backbone_train_and_go_on_exactly(tmp_path: Path, name: str) -> None:
    config = model_of(name)
    base = stored(tmp_path, config)
    settings = tuned(config)
    folder = runs_equal(tmp_path, settings, settings, pretrained_ckpt_path=base)
    assert any(layer.startswith("model.") for layer in moved(folder))
    assert any(layer.startswith("conditioners.") for layer in moved(folder))
    assert_equal(state(folder), merged_by_hand(Path(base), folder))
    assert any(not torch.equal(v, state(Path(base))[k]) for k, v in state(folder).items())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dora-rows", "lora", "bora"])
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_compiled_runs_train_the_same_adapter_without_compiling_anew(
    tmp_path: Path, graphs: list[int], kind: str
) -> None:
    base = stored(tmp_path, tiny_config())
    settings = tuned(tiny_config(), lora_config={**LORA, "adapter_type": kind})
    counts: list[int] = []

    def train(name: str, **options: Any) -> dict[str, Tensor]:
        options = {"demos": False, "pretrained_ckpt_path": base, "max_steps": 5, **options}
        run = tiny_run(tmp_path, settings, name=name, **options)
        step = run.module.training_step

        def counted(*args: Any, **kwargs: Any) -> Any:
            counts.append(len(graphs))
            return step(*args, **kwargs)

        run.module.training_step = counted  # type: ignore[method-assign]
        assert run.start() == 0
        return load_torch_file(tmp_path / name / "last.ckpt")["state_dict"]

    plain = train("plain")
    assert set(counts) == {0}
    counts.clear()
    compiled = train("compiled", compile=True)
    assert sum(graphs) > 20
    assert counts[0] == 0
    assert counts[2] == counts[3] == counts[4] == len(graphs)  # steps with and without dropped items
    assert compiled.keys() == plain.keys()
    for key, value in plain.items():
        torch.testing.assert_close(compiled[key], value, rtol=1e-3, atol=1e-4)


def test_adapters_of_packed_clips_go_on_exactly(tmp_path: Path) -> None:
    config = tiny_config()
    settings = tuned(config, pre_encoded=True)
    data = _latents(tmp_path / "latents")
    options = {"pretrained_ckpt_path": stored(tmp_path, config), "max_steps": 6, "dataset": data}
    assert moved(runs_equal(tmp_path, settings, settings, **options))


RATES = {"lr_multipliers": {"*.lora_B": 16.0, "conditioner": 0.5}}
ADAM8 = {"optimizer_configs": {"diffusion": {"optimizer": {"type": "AdamW8bit", "config": {"lr": 1e-3}}}}}


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [{}, ADAM8], ids=["AdamW", "8 bits"])
def test_rates_of_parts_released_gradients_and_small_optimizers_go_together(
    tmp_path: Path, optimizer: dict[str, Any]
) -> None:
    if optimizer:
        pytest.importorskip("torchao.optim")
    config = tiny_config()
    lora = {**LORA, "rank": 64}  # some tensors are large enough for averages of 8 bits
    plain = tuned(config, trainable=RATES, lora_config=lora, **optimizer)
    if optimizer:
        plain["training"].pop("learning_rate")
    released = {**plain, "training": {**plain["training"], "gradient_release": True}}
    folder = runs_equal(tmp_path, plain, released, pretrained_ckpt_path=stored(tmp_path, config))
    saved = load_torch_file(folder / "last.ckpt")["optimizer_states"][0]
    assert sorted({group["lr_factor"] for group in saved["param_groups"]}) == [0.5, 1.0, 16.0]
    small = [
        v for s in saved["state"].values() if isinstance(v := s["exp_avg"], dict) or v.dtype is torch.uint8
    ]
    assert len(small) > 0 or not optimizer


def test_recomputed_blocks_train_the_same_adapter(tmp_path: Path) -> None:
    config = tiny_config()
    base = stored(tmp_path, config)
    for name, value in (("none", False), ("all", True), ("half", 2)):
        settings = tuned(config, gradient_checkpointing=value)
        tiny_run(tmp_path, settings, name=name, pretrained_ckpt_path=base, max_steps=2, demos=False).start()
    for name in ("all", "half"):
        assert_same_checkpoint(tmp_path / "none" / "last.ckpt", tmp_path / name / "last.ckpt")
    assert moved(tmp_path / "none")
