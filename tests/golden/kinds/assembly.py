"""Builds diffusion models of golden cases, whose slot ids may have no conditioner in the config."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from stable_audio.checkpoints.keys import to_ours
from stable_audio.factory import create_model_from_config
from stable_audio.model import DiffusionModel
from stable_audio.options import keywords_of
from stable_audio.types import ConditionTensors
from tests.golden.harness import Case, load_strict


def construct(cls: type, config: dict[str, Any]) -> Any:
    """`cls(**config)` with nested dicts turned into the dataclasses that the constructor declares."""
    keywords = keywords_of(cls)
    unknown = set(config) - set(keywords)
    assert not unknown, f"{cls.__name__} has no {sorted(unknown)}"
    return cls(**{k: _nested(keywords[k].annotation, v) for k, v in config.items()})


def _nested(hint: Any, value: Any) -> Any:
    return hint(**value) if dataclasses.is_dataclass(hint) and isinstance(value, dict) else value


def given_tensors(case: Case, group: str) -> ConditionTensors:
    """Conditioning that the case gives ready made: `in.<group>.<id>` with `in.<group>.<id>.mask`."""
    given: dict[str, Tensor] = case.group(f"in.{group}")
    return {
        key: (value, mask.bool() if (mask := given.get(f"{key}.mask")) is not None else None)
        for key, value in given.items()
        if not key.endswith(".mask")
    }


def base_weights(case: Case) -> dict[str, Tensor]:
    """The case's weights without those of adapters."""
    return {key: value for key, value in case.weights().items() if not key.startswith("adapter.")}


def build_model(case: Case) -> DiffusionModel:
    """The case's model, from its config, with its weights, in its mode."""
    config = case.config
    for entry in (config["model"].get("conditioning") or {}).get("configs", ()):
        if entry["type"] == "int" and entry["config"].get("min_val", 0) != 0:
            # The cases pin a defect: rows are looked up without subtracting min_val.
            entry["config"]["legacy_index"] = True
    if str(case.spec.get("reference", "")).startswith("stable-audio-3"):
        # These cases were computed without flash-attn, where padding keeps its share of attention.
        backbone = config["model"]["diffusion"]["config"]
        backbone["attn_kwargs"] = {**backbone.get("attn_kwargs", {}), "padding": "zero_values"}
    given = {key.split(".")[0] for group in ("in.cond", "in.neg") for key in case.group(group)}
    if case.kind == "lora_file":
        given |= {"prompt"}  # whose tensors only a forward pass needs
    # The lengths of the inputs have nothing to do with the sample_size of the file.
    model = create_model_from_config(config, extra_ids=sorted(given), skip_rules=("sample_size",))
    load_strict(model, to_ours(base_weights(case), model.state_dict()))
    return model.train(case.spec["mode"] == "train")


def bernoulli_replay(draws: list[list[float]]) -> Any:
    """Draws of the case, in order, as the source of decisions of `cfg_dropout`."""
    queue = [torch.tensor(d) for d in draws]
    return lambda n, prob: queue.pop(0)
