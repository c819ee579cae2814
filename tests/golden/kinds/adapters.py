"""Kinds `lora_layer`, `lora` and `lora_file`: adapters on a layer, on a model, in files."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from stable_audio.adapters import Adapter, AdapterSettings, AdapterStack, read_adapter, write_adapter
from stable_audio.adapters.files import adapter_from
from stable_audio.adapters.layers import updates_of
from stable_audio.adapters.stack import Gate, merge_weighted
from stable_audio.diffusion.guidance import Guidance
from stable_audio.model import DiffusionModel
from tests.golden.harness import Case
from tests.golden.kinds.assembly import build_model, given_tensors

STRENGTHS = (1.0, 0.4, 0.0, 2.5)


def run_layer(case: Case) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for i, values in enumerate(case.config["adapters"]):
        found |= {f"{values['name']}.{key}": v for key, v in _layer(case, i, values).items()}
    return found


def _layer(case: Case, i: int, values: dict[str, Any]) -> dict[str, Any]:
    weights, name = case.weights(), values["name"]
    given = {k.removeprefix(f"adapter.{i}."): v for k, v in weights.items() if k.startswith(f"adapter.{i}.")}
    spec = case.config["layer"]
    layer: nn.Module = (
        nn.Linear(spec["in"], spec["out"])
        if spec["type"] == "linear"
        else nn.Conv1d(spec["in"], spec["out"], spec["kernel"], padding=spec["kernel"] // 2)
    )
    layer.load_state_dict({"weight": weights["weight"], "bias": weights["bias"]})
    layer.requires_grad_(False)
    stack = AdapterStack(nn.ModuleDict({"layer": layer}))
    settings = AdapterSettings.from_values(values)
    index = stack.add(
        settings, feature_mask=lambda ones, p: case.inputs["dropout_keep"].reshape_as(ones) / (1 - p)
    )
    update: Any = updates_of(layer)[str(index)]
    initial = dict(update.named_parameters()) | dict(update.named_buffers())
    found = {f"init.{k}": v.clone() for k, v in initial.items() if f"{name}.init.{k}" in case.expected()}
    found["w_init"] = layer.weight.clone()
    update.load_state_dict(given, strict=True)
    for strength in STRENGTHS:
        stack.set_strength(index, backbone=strength)
        found[f"w.{strength}"] = layer.weight.clone()
    stack.set_strength(index, backbone=1.0)
    found["y"] = layer(case.inputs["x"])
    (found["y"] * case.inputs["g"]).sum().backward()
    trained = {k: p for k, p in layer.named_parameters() if p.requires_grad}
    grads = {f"grad.{k.split('.')[-1]}": p.grad for k, p in trained.items()}
    return {**found, **grads, "n_trainable": sum(p.numel() for p in trained.values())}


def adapters_of(case: Case, listed: list[dict[str, Any]] | None = None) -> list[Adapter]:
    """The case's adapters, as if read from files.

    Args:
        listed: their settings; None: those in `extra`.
    """
    weights, listed = case.weights(), case.extra["adapters"] if listed is None else listed
    return [
        adapter_from(
            {k.removeprefix(f"adapter.{i}."): v for k, v in weights.items() if k.startswith(f"adapter.{i}.")},
            values,
            source=case.name,
        )
        for i, values in enumerate(listed)
    ]


def _stack(model: DiffusionModel) -> AdapterStack:
    return AdapterStack(model.backbone, model.conditioner)


def run_model(case: Case) -> dict[str, Any]:
    with torch.no_grad():
        model = build_model(case)
        found: dict[str, Any] = {"y.base": _output(case, model, {})}
        stack = _stack(model)
        for adapter in adapters_of(case):
            # The settings select the layers that the file has.
            settings = adapter.settings
            assert {*stack.selection(settings.include, settings.exclude)} == {*adapter.layers}
            stack.add(adapter)
        for name, call in case.calls.items():
            changed = model
            if call.get("do"):
                changed = _changed(case, call)
            else:
                _apply(case, model, stack, call)
            found[f"y.{name}"] = _output(case, changed, call)
            found |= {f"w.{name}.{module}": _weight(changed, module) for module in case.extra["weights_of"]}
        return found


def _changed(case: Case, call: dict[str, Any]) -> DiffusionModel:
    model = build_model(case)
    stack, adapters = _stack(model), adapters_of(case)
    if call["do"] == "merge":
        merge_weighted(stack, [(adapters[int(i)], weight) for i, weight in call["weights"].items()])
        return model
    for adapter in adapters:
        stack.add(adapter)
    if call["do"] == "bake":
        stack.merge()
    else:
        for index in call["index"]:
            stack.remove(index)
    return model


def _apply(case: Case, model: DiffusionModel, stack: AdapterStack, call: dict[str, Any]) -> None:
    for index in stack.settings:
        backbone, conditioner = (
            call.get(key, {}).get(str(index), 1.0) for key in ("strengths", "cond_strengths")
        )
        stack.set_strength(index, backbone=backbone, conditioner=conditioner)
    single = Gate(tuple(call.get("lora_interval", (0.0, 1.0))), call.get("lora_layer_filter", ""))
    gates = {index: single for index in stack.settings}
    if "lora_configs" in call:
        gates = {
            entry["lora_index"]: Gate(tuple(entry.get("interval", (0, 1))), entry.get("layer_filter", ""))
            for entry in call["lora_configs"]
        }
    sigma = float(model.objective.alpha_sigma(_t(case, call)[0])[1])
    stack.gate(sigma, gates)


def _t(case: Case, call: dict[str, Any]) -> Tensor:
    t = case.inputs["t"]
    return torch.full_like(t, call["t"]) if "t" in call else t


def _output(case: Case, model: DiffusionModel, call: dict[str, Any]) -> Tensor:
    assert model.conditioner is not None
    cond = model.wiring({**model.conditioner(case.extra["metadata"], "cpu"), **given_tensors(case, "cond")})
    guidance = Guidance(
        model.backbone,
        model.objective,
        cond,
        cfg_scale=call.get("cfg_scale", 1.0),
        apg_scale=call.get("apg_scale", 1.0),
        scale_phi=0.0,
    )
    return guidance(case.inputs["x"], _t(case, call)).value


def _weight(model: DiffusionModel, module: str) -> Tensor:
    name = module.replace("model.model.", "backbone.", 1)
    return model.get_submodule(name).weight.clone()


def run_file(case: Case) -> dict[str, Any]:
    found: dict[str, Any] = {}
    model = build_model(case)
    for i, adapter in enumerate(adapters_of(case)):
        stack = _stack(model)
        index = stack.add(adapter)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "adapter.safetensors"
            write_adapter(path, stack.adapter(index))
            with safe_open(str(path), "pt") as file:
                stored = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
                assert {**file.metadata()}.keys() == {"lora_config"}
                assert json.loads(file.metadata()["lora_config"]) == case.extra["adapters"][i]
            again = read_adapter(path)
        assert {f"{i}.{k}" for k in stored} == {
            k for k in case.expected() if k.startswith(f"{i}.") and k != f"{i}.rank"
        }
        assert all(v.dtype is torch.float16 for v in stored.values())
        assert again.settings == adapter.settings
        found |= {f"{i}.{k}": v for k, v in stored.items()}
        values = {k: v for k, v in case.extra["adapters"][i].items() if k != "rank"}
        found[f"{i}.rank"] = adapter_from(stored, values, source="file").settings.rank
        stack.remove(index)
    return {**found, **_legacy(case)}


def _legacy(case: Case) -> dict[str, Any]:
    found = {}
    for j, entry in enumerate(case.extra["legacy"]):
        shape = entry.get("magnitude_shape")
        settings = AdapterSettings.from_values({"adapter_type": entry["adapter_type"]}, magnitude=shape)
        assert settings.adapter_type == entry["resolved"]
        if shape is not None:
            found[f"legacy.{j}.ndim"] = _loaded_magnitude(entry["resolved"], torch.ones(shape)).ndim
    return found


def _loaded_magnitude(kind: str, magnitude: Tensor) -> Tensor:
    names = ("magnitude_r", "magnitude_c") if kind == "bora" else ("magnitude",)
    tensors = {"lora_A": torch.ones(1, 5), "lora_B": torch.ones(5, 1), **dict.fromkeys(names, magnitude)}
    keyed = {f"model.x.parametrizations.weight.0.{k}": v for k, v in tensors.items()}
    loaded = adapter_from(keyed, {"adapter_type": kind}, source="file").layers["model.x"]
    return loaded[names[0]]
