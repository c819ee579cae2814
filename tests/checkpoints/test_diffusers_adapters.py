"""Adapters for diffusers' transformers: its own loader makes of them what ours does to the backbone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from stable_audio.adapters import Adapter, AdapterError, AdapterSettings, AdapterStack, with_adapters
from stable_audio.adapters.use import AdapterUse
from stable_audio.checkpoints.diffusers import export_diffusers_backbone
from stable_audio.checkpoints.diffusers.adapters import (
    FILE,
    layer_places,
    read_diffusers_adapter,
    write_diffusers_adapter,
)
from stable_audio.factory import create_model_from_config
from tests.checkpoints import tiny_pipeline, tiny_pipeline_3

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("peft")
pytest.importorskip("transformers")

KINDS = ("lora", "dora-rows")


def settings_of(layout: str, folder: Path) -> dict[str, Any]:
    if layout == "stable_audio":
        return tiny_pipeline.config(tiny_pipeline.save_text_encoder(folder))
    return tiny_pipeline_3.config(folder)


@pytest.fixture(params=["stable_audio", "stable_audio_3"])
def whole(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, dict[str, Any]]:
    """A model that the layout can hold, and its config."""
    values = settings_of(request.param, tmp_path / "text")
    torch.manual_seed(0)
    model = create_model_from_config(values)
    tiny_pipeline.disturb(model)
    return model.eval(), values


def stack_of(model: Any) -> AdapterStack:
    return AdapterStack(model.backbone, model.conditioner)


def some_adapter(model: Any, kind: str, **settings: Any) -> Adapter:
    stack = stack_of(model)
    index = stack.add(AdapterSettings(rank=2, alpha=3.0, adapter_type=kind, include=["model."], **settings))
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in stack.parameters(index):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=noise))
    adapter = stack.adapter(index)
    stack.remove(index)
    return adapter


def merged(model: Any, adapter: Adapter) -> Any:
    """The backbone with the adapter merged."""
    copy = with_adapters(model, [AdapterUse(adapter=adapter)])
    stack_of(copy).merge()
    return copy


def transformer_in(folder: Path) -> Any:
    """The transformer of a folder, with diffusers' loader of adapters, which its own class lacks."""
    from diffusers.loaders import PeftAdapterMixin

    name = json.loads((folder / "config.json").read_text())["_class_name"]
    kind = getattr(diffusers, name)
    return type(name, (PeftAdapterMixin, kind), {}).from_pretrained(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_diffusers_reads_what_we_write(kind: str, whole: Any, tmp_path: Path) -> None:
    model, values = whole
    adapter = some_adapter(model, kind)
    file = write_diffusers_adapter(tmp_path / "adapter", adapter, stack_of(model), values)
    assert file == tmp_path / "adapter" / FILE
    export_diffusers_backbone(model, tmp_path / "base", config=values)
    export_diffusers_backbone(merged(model, adapter), tmp_path / "merged", config=values)
    transformer = transformer_in(tmp_path / "base")
    transformer.load_lora_adapter(str(tmp_path / "adapter"), prefix="transformer", use_safetensors=True)
    transformer.fuse_lora()
    transformer.unload_lora()
    target = transformer_in(tmp_path / "merged").state_dict()
    base = transformer_in(tmp_path / "base").state_dict()
    changed = 0
    for key, value in transformer.state_dict().items():
        # Weights around 1 in float32, and norms of up to 512 of them; added up in another order.
        torch.testing.assert_close(value, target[key], rtol=1e-5, atol=1e-5)
        changed += not torch.allclose(target[key], base[key], atol=1e-4)
    assert changed == len(layer_places(stack_of(model), values))


@pytest.mark.parametrize("kind", KINDS)
def test_we_read_it_again(kind: str, whole: Any, tmp_path: Path) -> None:
    model, values = whole
    adapter = some_adapter(model, kind)
    file = write_diffusers_adapter(tmp_path / "a.safetensors", adapter, stack_of(model), values)
    again = read_diffusers_adapter(file, stack_of(model), values)
    assert again.settings.adapter_type == kind
    assert again.settings.rank == 2, "the parts of a projection have one A in common"
    same_weights(model, again, adapter)


def same_weights(model: Any, first: Adapter, second: Adapter) -> None:
    weights = []
    for adapter in (first, second):
        stack = stack_of(merged(model, adapter))
        weights.append({n: layer._parameters["weight"] for n, layer in stack.layers.items()})
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name], rtol=1e-5, atol=1e-5)


def test_parts_of_a_projection_with_terms_of_their_own(tmp_path: Path) -> None:
    """As other programs train them: every part has its own A."""
    values = tiny_pipeline.config(tiny_pipeline.save_text_encoder(tmp_path / "text"))
    model = create_model_from_config(values).eval()
    adapter = some_adapter(model, "lora", exclude=["to_timestep"])
    file = write_diffusers_adapter(tmp_path / "a.safetensors", adapter, stack_of(model), values)
    tensors = load_file(file)
    noise = torch.Generator().manual_seed(2)
    start = "transformer.transformer_blocks.0.attn1."
    for part in "qkv":
        key = f"{start}to_{part}.lora_A.weight"
        tensors[key] = torch.randn(tensors[key].shape, generator=noise)
        tensors[f"{start}to_{part}.alpha"] = torch.tensor(4.0)
    save_file(tensors, file)
    again = read_diffusers_adapter(file, stack_of(model), values)
    name = "model.transformer.layers.0.self_attn.to_qkv"
    assert again.settings.rank == 6
    expected = torch.cat(
        [2 * tensors[f"{start}to_{p}.lora_B.weight"] @ tensors[f"{start}to_{p}.lora_A.weight"] for p in "qkv"]
    )
    layer = again.layers[name]
    torch.testing.assert_close(layer["lora_B"] @ layer["lora_A"], expected, rtol=1e-5, atol=1e-5)


def test_what_the_layout_has_not(whole: Any, tmp_path: Path) -> None:
    model, values = whole
    with pytest.raises(AdapterError, match="no adapters of type 'bora'"):
        write_diffusers_adapter(tmp_path / "a", some_adapter(model, "bora"), stack_of(model), values)
    stack = stack_of(model)
    both = stack.adapter(stack.add(AdapterSettings(rank=2)))
    stack.remove(0)
    with pytest.raises(AdapterError, match="changes the conditioner"):
        write_diffusers_adapter(tmp_path / "a", both, stack_of(model), values)
    values["model"]["diffusion"]["config"]["patch_size"] = 2
    with pytest.raises(AdapterError, match="cannot hold this backbone"):
        write_diffusers_adapter(tmp_path / "a", some_adapter(model, "lora"), stack_of(model), values)
    assert not (tmp_path / "a").exists()


def changed(tensors: dict[str, torch.Tensor], part: str, how: Any) -> None:
    """Change the first tensor whose name has a part."""
    key = next(key for key in tensors if part in key)
    tensors[key] = how(tensors[key]).clone()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.popitem(), "lacks tensors"),
        (lambda t: t.update({"unet.x.lora_A.weight": torch.ones(2)}), "is no tensor of a transformer's"),
        (
            lambda t: t.update({f"transformer.x.lora_{k}.weight": torch.ones(2, 2) for k in "AB"}),
            "the model has no counterpart of x",
        ),
        (lambda t: changed(t, "lora_B", lambda v: v[:, :1]), "lora_A of rank 2, but lora_B of rank 1"),
        (lambda t: changed(t, "lora_B", lambda v: v[:-1]), r"rows and a lora_A of .* but the model has"),
        (lambda t: changed(t, "lora_A", lambda v: v[:, :-1]), r"rows and a lora_A of .* but the model has"),
        (
            lambda t: changed(t, "lora_A", lambda v: v[:0]),
            r"lora_A\.weight has no values, its shape is \(0, ",
        ),
        (lambda t: changed(t, "lora_A", lambda v: v[0, :, ...].flatten()), "but a matrix is needed"),
        (lambda t: changed(t, "lora_B", lambda v: v / 0), r"lora_B\.weight holds values that are not finite"),
        (
            lambda t: t.update({f"{next(iter(t)).split('.lora_')[0]}.alpha": torch.ones(2)}),
            r"alpha has the shape \(2,\), but it is one number",
        ),
    ],
)
def test_files_that_are_for_others(change: Any, message: str, whole: Any, tmp_path: Path) -> None:
    model, values = whole
    adapter = some_adapter(model, "lora")
    file = write_diffusers_adapter(tmp_path / "a.safetensors", adapter, stack_of(model), values)
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    with pytest.raises(AdapterError, match=message):
        read_diffusers_adapter(file, stack_of(model), values)
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(AdapterError, match="truncated or damaged"):
        read_diffusers_adapter(file, stack_of(model), values)
