"""Files of stable-audio-tools load unchanged: the published models and the golden cases."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stable_audio.conditioning import CONDITIONERS
from stable_audio.config import MODEL_TYPES, load_config
from tests.golden.harness import MANIFESTS, Case, all_cases


def _manifests() -> dict[str, dict[str, Any]]:
    found = {p.stem: json.loads(p.read_text())["config"] for p in sorted(MANIFESTS.glob("*.json"))}
    return {name: config for name, config in found.items() if config}


def _types(config: dict[str, Any]) -> set[str]:
    entries = (config["model"].get("conditioning") or {}).get("configs", [])
    return {e["type"] for e in entries}


@pytest.mark.parametrize("name", _manifests())
def test_published_configs_load(name: str) -> None:
    config = _manifests()[name]
    if missing := _types(config) - set(CONDITIONERS):
        pytest.skip(f"conditioner types not built yet: {sorted(missing)}")
    assert load_config(config).as_dict() == config


# Adapters' cases have parts of models, or a section that their runner turns into an adapter.
CASES = [
    c
    for c in all_cases()
    if isinstance(c.spec.get("config"), dict)
    and "model_type" in c.spec["config"]
    and not c.name.startswith("lora_")
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_golden_configs_load(case: Case) -> None:
    config = case.config
    if config["model_type"] not in MODEL_TYPES or _types(config) - set(CONDITIONERS):
        pytest.skip("not built yet")
    given = {key.split(".")[0] for group in ("in.cond", "in.neg") for key in case.group(group)}
    # Clip lengths of the cases are arbitrary: their inputs are shorter anyway.
    loaded = load_config(config, extra_ids=sorted(given), skip_rules=("sample_size",))
    assert loaded.as_dict() == config
